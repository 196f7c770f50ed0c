//! What ptxas reports about every kernel on every architecture: no spills, and shared memory that fits every card.

use epi_engine::backend::cuda::device::modules;

#[derive(serde::Deserialize)]
struct Row {
    kernel: String,
    arch: String,
    registers: u64,
    shared: u64,
    spill_stores: u64,
    spill_loads: u64,
}

#[test]
fn no_kernel_spills_and_all_fit() {
    if !modules::MISSING.is_empty() {
        println!("needs nvcc: no_kernel_spills_and_all_fit ({})", modules::MISSING);
        return;
    }
    let rows: Vec<Row> = serde_json::from_str(modules::PTXAS).expect("build.rs writes JSON");
    let expected = modules::KERNELS.len() * modules::ARCHITECTURES.len();
    assert_eq!(rows.len(), expected, "a row for every kernel and architecture");
    let offenders: Vec<String> = rows
        .iter()
        .filter(|r| r.spill_stores + r.spill_loads > 0 || r.shared > 99 << 10 || r.registers > 255)
        .map(|r| {
            format!(
                "{} {}: {} registers, {} + {} bytes spilled, {} shared",
                r.kernel, r.arch, r.registers, r.spill_stores, r.spill_loads, r.shared
            )
        })
        .collect();
    assert!(offenders.is_empty(), "{}", offenders.join("\n"));
    for (module, _) in modules::KERNELS {
        let image = modules::IMAGES.iter().find(|(name, _)| name == module).expect("an image of every module").1;
        assert!(image.starts_with(&0xBA55_ED50u32.to_le_bytes()), "{module} is not a fat binary");
    }
}

#[test]
fn cards_are_matched_with_images() {
    if modules::MISSING.is_empty() && std::env::var_os("EPI_CUDA_ARCHS").is_none() {
        for (card, runs) in
            [((7, 5), false), ((8, 0), true), ((8, 6), true), ((8, 9), true), ((9, 0), true), ((12, 0), true)]
        {
            assert_eq!(modules::runs_on(card.0, card.1), runs, "{card:?}");
        }
    }
}
