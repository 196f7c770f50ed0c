//! Kernels that are wrong on purpose are reported with file and line, whatever the schedule; correct ones never are.

use epi_engine::args;
use epi_engine::backend::cuda::device::{Device, Grid};

const SOURCE: &str = include_str!("../../kernels/emulator/planted_bugs.cu");
const SEEDS: std::ops::Range<u64> = 0..20;

/// Launches `kernel` on `blocks` blocks of 64 threads over an input of 64 floats (ones, two, ..) and returns the output.
fn run(kernel: &'static str, blocks: usize, seed: u64, outputs: usize) -> Result<Vec<f32>, String> {
    let device = Device::planted_bugs(&[kernel], seed).map_err(|e| e.to_string())?;
    let inp = device.alloc(64 * 4).unwrap();
    let out = device.alloc(outputs * 4).unwrap();
    let values: Vec<f32> = (0..64).map(|i| i as f32 + 1.0).collect();
    device.write(&inp, 0, bytemuck::cast_slice(&values)).unwrap();
    let grid = Grid::new([blocks, 1, 1], 64).shared(512);
    let grid = if kernel == "bug_dynamic_shared" { grid.shared(256) } else { grid };
    // SAFETY: wrong accesses are what the check flavour is there to catch before they happen.
    unsafe { device.launch(kernel, grid, args![inp.address(), out.address()]) }.map_err(|e| e.to_string())?;
    let mut result = vec![0f32; outputs];
    device.read(bytemuck::cast_slice_mut(&mut result), &out, 0).map_err(|e| e.to_string())?;
    Ok(result)
}

fn line_of(kernel: &str) -> usize {
    let mark = format!("// BUG {kernel}");
    SOURCE.lines().position(|l| l.trim_end().ends_with(&mark)).unwrap_or_else(|| panic!("no line marked {mark}")) + 1
}

/// Every schedule reports one of `kinds` (separated by `|`), and names the marked line.
fn reported(kernel: &'static str, blocks: usize, kinds: &str) {
    for seed in SEEDS {
        let report = run(kernel, blocks, seed, 64).expect_err(kernel);
        assert!(kinds.split('|').any(|kind| report.contains(kind)), "{kernel}, seed {seed}: {report}");
        let line = format!("kernels/emulator/planted_bugs.cu:{}", line_of(kernel));
        assert!(report.contains(&line), "{kernel}, seed {seed}, expected {line}: {report}");
        assert!(report.contains(kernel) && report.contains("grid ("), "{report}");
    }
}

macro_rules! reported {
    ($($kernel:ident $blocks:literal $kind:literal;)*) => { $(
        #[test]
        fn $kernel() {
            reported(stringify!($kernel), $blocks, $kind);
        }
    )* };
}
reported! {
    bug_no_barrier 1 "race between threads|uninitialised";
    bug_no_second_barrier 1 "race between threads";
    bug_no_warp_barrier 1 "race between threads|uninitialised";
    bug_warp_barrier_for_block 1 "race between threads|uninitialised";
    bug_divergent_barrier 1 "divergent barrier";
    bug_two_barriers 1 "divergent barrier";
    bug_partial_shuffle 1 "deadlock";
    bug_two_shuffles 1 "divergent warp";
    bug_wrong_mask 1 "mask";
    bug_no_wait 1 "missing cp.async wait";
    bug_waits_for_fewer 1 "missing cp.async wait";
    bug_no_barrier_after_wait 1 "race between threads|missing cp.async wait|uninitialised";
    bug_refills_while_read 1 "race between threads|missing cp.async wait";
    bug_global_read 1 "out of bounds";
    bug_global_write 1 "out of bounds";
    bug_shared_read 1 "out of bounds";
    bug_shared_write 1 "out of bounds";
    bug_uninitialised_shared 1 "uninitialised";
    bug_uninitialised_global 1 "uninitialised";
    bug_misaligned 1 "misaligned";
    bug_null 1 "null pointer";
    bug_dynamic_shared 1 "of 256 bytes of dynamic shared memory";
    bug_blocks_write 4 "race between blocks";
    bug_bytes 1 "race between threads";
    bug_waits_for_ever 1 "spins without end";
    bug_deadlock 1 "deadlock";
}

#[test]
fn bug_blocks_read_is_reported_in_any_order_of_blocks() {
    for seed in SEEDS {
        let report = run("bug_blocks_read", 4, seed, 256).expect_err("a race");
        assert!(report.contains("race between blocks") || report.contains("uninitialised"), "seed {seed}: {report}");
    }
}

#[test]
fn crashes_of_a_kernel_are_errors() {
    for seed in 0..3 {
        let report = run("bug_division", 1, seed, 64).expect_err("a division by zero");
        assert!(report.contains("division by zero near kernels/emulator/planted_bugs.cu"), "{report}");
        let report = run("bug_stack", 1, seed, 64).expect_err("a stack of 128 KB");
        assert!(report.contains("stack overflow"), "{report}");
    }
    run("fine_warps", 1, 0, 64).expect("the emulator survives crashes");
}

#[test]
fn reports_are_the_same_for_the_same_seed() {
    for kernel in ["bug_no_barrier", "bug_refills_while_read", "bug_blocks_write"] {
        for seed in [1, 2, 3] {
            assert_eq!(run(kernel, 2, seed, 64).unwrap_err(), run(kernel, 2, seed, 64).unwrap_err());
        }
    }
}

#[test]
fn correct_kernels_pass_every_schedule_with_the_same_result() {
    for (kernel, outputs) in [("fine_pipeline", 192), ("fine_warps", 192), ("fine_early_return", 144)] {
        let expected = run(kernel, 3, 0, outputs).unwrap();
        assert!(expected.iter().all(|x| x.is_finite()), "{kernel}: {expected:?}");
        for seed in SEEDS {
            assert_eq!(run(kernel, 3, seed, outputs).unwrap(), expected, "{kernel}, seed {seed}");
        }
    }
}

#[test]
fn bytes_halves_atomics_and_spins_are_not_races() {
    for seed in SEEDS {
        let device = Device::planted_bugs(&["fine_small"], seed).unwrap();
        let (inp, out, sum) = (device.alloc(64).unwrap(), device.alloc(192).unwrap(), device.alloc(4).unwrap());
        let values: Vec<u8> = (0..64).collect();
        device.write(&inp, 0, &values).unwrap();
        device.fill(&sum, 0, 0, 4).unwrap();
        // SAFETY: 64 bytes in, 3 x 64 bytes out, one counter.
        unsafe {
            device.launch("fine_small", Grid::new([3, 1, 1], 64), args![inp.address(), out.address(), sum.address()])
        }
        .unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        let (mut result, mut total) = (vec![0u8; 192], [0u8; 4]);
        device.read(&mut result, &out, 0).unwrap();
        device.read(&mut total, &sum, 0).unwrap();
        assert!(result.iter().enumerate().all(|(i, &x)| usize::from(x) == 63 - i % 64 + ((i % 64) ^ 1)), "{result:?}");
        assert_eq!(u32::from_le_bytes(total), 3 * 63 * 32);
    }
}
