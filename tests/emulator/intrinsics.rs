//! Every PTX intrinsic and fragment layout alone, against plain arithmetic. Device-independent: `EPI_TEST_DEVICE=cuda:0` runs
//! them on a GPU, which settles what the emulator can only claim.

use epi_engine::args;
use epi_engine::backend::StepState;
use epi_engine::backend::cuda::device::{Device, Flavour, Grid, Memory};
use epi_engine::rng::{self, Dropout, Stream};
use half::bf16;
use std::sync::Arc;

fn devices() -> Vec<Arc<Device>> {
    if let Ok(device) = std::env::var("EPI_TEST_DEVICE") {
        let number = device
            .strip_prefix("cuda")
            .and_then(|n| if n.is_empty() { Some(0) } else { n.strip_prefix(':')?.parse().ok() });
        let number = number.unwrap_or_else(|| panic!("EPI_TEST_DEVICE={device}: not cuda or cuda:N"));
        return vec![Device::cuda(number).unwrap()];
    }
    let emulators = [(Flavour::Fast, 0), (Flavour::Check, 0), (Flavour::Check, 1), (Flavour::Fast, 2)];
    emulators.map(|(flavour, seed)| Device::emulator(flavour, seed).unwrap()).into()
}

fn up<T: bytemuck::NoUninit>(device: &Arc<Device>, values: &[T]) -> Memory {
    let memory = device.alloc(std::mem::size_of_val(values)).unwrap();
    device.write(&memory, 0, bytemuck::cast_slice(values)).unwrap();
    memory
}

fn room<T>(device: &Arc<Device>, n: usize) -> Memory {
    device.alloc(n * size_of::<T>()).unwrap()
}

fn down<T: bytemuck::Pod>(device: &Device, memory: &Memory) -> Vec<T> {
    let mut values = vec![T::zeroed(); memory.bytes() / size_of::<T>()];
    device.read(bytemuck::cast_slice_mut(&mut values), memory, 0).unwrap();
    values
}

fn launch(device: &Device, kernel: &str, threads: usize, shared: usize, args: &[&[u8]]) {
    // SAFETY: each test passes what the header of kernels/intrinsics.cu lists.
    unsafe { device.launch(kernel, Grid::new([1, 1, 1], threads).shared(shared), args) }.unwrap();
}

fn normals(n: usize, stream: u32) -> Vec<f32> {
    let mut random = Stream::new(11, stream, 0);
    (0..n).map(|_| random.normal() as f32).collect()
}

/// `a [16,depth] b [8,depth]ᵀ + c`, in f64.
fn product(a: &[f64], b: &[f64], c: &[f32], depth: usize) -> Vec<f64> {
    let dot = |m: usize, n: usize| (0..depth).map(|k| a[m * depth + k] * b[n * depth + k]).sum::<f64>();
    (0..128).map(|i| dot(i / 8, i % 8) + f64::from(c[i])).collect()
}

fn close(got: &[f32], expected: &[f64], what: &str) {
    for (i, (g, e)) in got.iter().zip(expected).enumerate() {
        assert!((f64::from(*g) - e).abs() < 1e-4, "{what} element ({}, {}): {g} instead of {e}", i / 8, i % 8);
    }
}

#[test]
fn mma_bf16_layout() {
    let round = |x: Vec<f32>| x.into_iter().map(bf16::from_f32).collect::<Vec<_>>();
    let (a, b, c) = (round(normals(256, 1)), round(normals(128, 2)), normals(128, 3));
    let wide = |x: &[bf16]| x.iter().map(|v| v.to_f64()).collect::<Vec<_>>();
    let expected = product(&wide(&a), &wide(&b), &c, 16);
    for device in devices() {
        let (fa, fb, fc, out) = (up(&device, &a), up(&device, &b), up(&device, &c), room::<f32>(&device, 128));
        launch(&device, "intrinsic_mma_bf16", 32, 0, args![fa.address(), fb.address(), fc.address(), out.address()]);
        close(&down::<f32>(&device, &out), &expected, device.name());
    }
}

/// Nearest, ties away from zero, ten bits of mantissa.
fn tf32(x: f32) -> u32 {
    if x.is_finite() { (x.to_bits() + 0x1000) & !0x1FFF } else { x.to_bits() }
}

#[test]
fn mma_tf32_layout() {
    let (a, b, c) = (normals(128, 4), normals(64, 5), normals(128, 6));
    let wide = |x: &[f32]| x.iter().map(|&v| f64::from(f32::from_bits(tf32(v)))).collect::<Vec<_>>();
    let expected = product(&wide(&a), &wide(&b), &c, 8);
    for device in devices() {
        let (fa, fb, fc, out) = (up(&device, &a), up(&device, &b), up(&device, &c), room::<f32>(&device, 128));
        launch(&device, "intrinsic_mma_tf32", 32, 0, args![fa.address(), fb.address(), fc.address(), out.address()]);
        close(&down::<f32>(&device, &out), &expected, device.name());
    }
}

#[test]
fn ldmatrix_layouts() {
    for count in [1usize, 2, 4] {
        for transposed in [false, true] {
            let kernel = format!("intrinsic_ldmatrix_x{count}{}", if transposed { "_trans" } else { "" });
            let inp: Vec<u16> = (0..64 * count as u16).collect();
            let at = |i: usize, row: usize, column: usize| u32::from(inp[i * 64 + row * 8 + column]);
            let expected: Vec<u32> =
                (0..32 * count)
                    .map(|e| (e / count / 4, e / count % 4 * 2, e % count))
                    .map(|(g, t, i)| {
                        if transposed {
                            at(i, t, g) | at(i, t + 1, g) << 16
                        } else {
                            at(i, g, t) | at(i, g, t + 1) << 16
                        }
                    })
                    .collect();
            for device in devices() {
                let (source, out) = (up(&device, &inp), room::<u32>(&device, 32 * count));
                launch(&device, &kernel, 32, 0, args![source.address(), out.address()]);
                assert_eq!(down::<u32>(&device, &out), expected, "{kernel} on {}", device.name());
            }
        }
    }
}

#[test]
fn cp_async_sizes_and_zero_fill() {
    for bytes in [4usize, 8, 16] {
        let inp: Vec<u8> = (0..32 * bytes).map(|i| (i % 255) as u8 + 1).collect();
        let valid: Vec<i32> = (0..32).map(|lane| lane % (bytes as i32 + 1)).collect();
        let expected: Vec<u8> =
            inp.iter().enumerate().map(|(i, &x)| if (i % bytes) < valid[i / bytes] as usize { x } else { 0 }).collect();
        for device in devices() {
            let (source, counts, out) = (up(&device, &inp), up(&device, &valid), room::<u8>(&device, 32 * bytes));
            launch(
                &device,
                &format!("intrinsic_cp_async_{bytes}"),
                32,
                32 * bytes,
                args![source.address(), counts.address(), out.address()],
            );
            assert_eq!(down::<u8>(&device, &out), expected, "{bytes} bytes on {}", device.name());
        }
    }
}

#[test]
fn shuffles_and_votes() {
    let inp: Vec<i32> = (0..32).map(|i| i * i % 7).collect();
    let lane = |f: fn(usize) -> usize| (0..32).map(|i| inp[f(i)]).collect::<Vec<_>>();
    let shuffled = [
        lane(|i| i ^ 5),
        lane(|i| if i < 3 { i } else { i - 3 }),
        lane(|i| if i > 28 { i } else { i + 3 }),
        lane(|i| i / 16 * 16 + 7),
    ]
    .concat();
    let ballot = (0..32).fold(0u32, |bits, i| bits | u32::from(inp[i] != 0) << i);
    for device in devices() {
        let (source, out, votes) = (up(&device, &inp), room::<i32>(&device, 128), room::<u32>(&device, 4));
        launch(&device, "intrinsic_shuffles", 32, 0, args![source.address(), out.address()]);
        launch(&device, "intrinsic_votes", 32, 0, args![source.address(), votes.address()]);
        assert_eq!(down::<i32>(&device, &out), shuffled, "{}", device.name());
        assert_eq!(down::<u32>(&device, &votes), [ballot, 1, 0, ballot.count_ones()], "{}", device.name());
    }
}

#[test]
fn rounding_to_bf16_and_tf32() {
    let mut inp = normals(250, 8);
    inp.extend([0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::from_bits(0x3F80_8000)]);
    let bits: Vec<u16> = inp.iter().map(|&x| bf16::from_f32(x).to_bits()).collect();
    let pairs: Vec<u32> = bits.chunks(2).map(|p| u32::from(p[0]) | u32::from(p[1]) << 16).collect();
    let tf32: Vec<u32> = inp.iter().map(|&x| tf32(x)).collect();
    let n = inp.len();
    for device in devices() {
        let source = up(&device, &inp);
        let (one, two, tf) = (room::<u16>(&device, n), room::<u32>(&device, n / 2), room::<u32>(&device, n));
        launch(
            &device,
            "intrinsic_round",
            256,
            0,
            args![n as i32, source.address(), one.address(), two.address(), tf.address()],
        );
        assert_eq!(down::<u16>(&device, &one), bits, "{}", device.name());
        assert_eq!(down::<u32>(&device, &two), pairs, "{}", device.name());
        assert_eq!(down::<u32>(&device, &tf), tf32, "{}", device.name());
    }
}

#[test]
fn powers_of_two_are_nearly_exact() {
    let mut inp: Vec<f32> = normals(250, 9).iter().map(|x| 20.0 * x).collect();
    inp.extend([0.0, 1.0, 127.5, -125.5, -127.5, f32::NEG_INFINITY]);
    for device in devices() {
        let (source, out) = (up(&device, &inp), room::<f32>(&device, inp.len()));
        launch(&device, "intrinsic_exp2", 256, 0, args![inp.len() as i32, source.address(), out.address()]);
        for (&x, y) in inp.iter().zip(down::<f32>(&device, &out)) {
            let exact = f64::from(x).exp2();
            let exact = if exact < f64::from(f32::MIN_POSITIVE) { 0.0 } else { exact }; // subnormal numbers become zero
            assert!(
                (f64::from(y) - exact).abs() <= exact * 0.5f64.powi(21),
                "{}: 2^{x} = {y}, not {exact}",
                device.name()
            );
        }
    }
}

#[test]
fn philox_and_dropout_are_those_of_the_host() {
    let (seed, stream, step, n) = (0x1234_5678_9ABC_DEF0u64, 5u32, 77u32, 1000usize);
    let words: Vec<u32> = (0..n as u64).flat_map(|i| rng::block(seed, stream, step, i << 32 | i)).collect();
    let dropout = Dropout { probability: 0.3, seed, stream };
    let factors: Vec<f32> = (0..n as u64).map(|e| if dropout.keeps(step, e) { dropout.scale() } else { 0.0 }).collect();
    let state = StepState { philox_step: step, ..StepState::default() };
    #[repr(C)]
    #[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
    struct DropoutParams {
        seed: u64,
        stream: u32,
        threshold: u32,
        scale: f32,
        reserved: u32,
    }
    let params = DropoutParams { seed, stream, threshold: dropout.threshold(), scale: dropout.scale(), reserved: 0 };
    for device in devices() {
        let (blocks, out, record) = (room::<u32>(&device, 4 * n), room::<f32>(&device, n), up(&device, &[state]));
        launch(&device, "intrinsic_philox", 256, 0, args![seed, stream, step, n as i32, blocks.address()]);
        launch(&device, "intrinsic_dropout", 256, 0, args![params, record.address(), n as i32, out.address()]);
        assert_eq!(down::<u32>(&device, &blocks), words, "{}", device.name());
        assert_eq!(down::<f32>(&device, &out), factors, "{}", device.name());
    }
}
