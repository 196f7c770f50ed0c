//! Memory, copies and launches of a device, and an operator from the kernel up.

use epi_engine::args;
use epi_engine::backend::cuda::device::{Device, Flavour, Grid, Memory, modules, params_sizes};
use epi_engine::rng::Stream;
use std::sync::Arc;

fn upload(device: &Arc<Device>, values: &[f32]) -> Memory {
    let memory = device.alloc(std::mem::size_of_val(values)).unwrap();
    device.write(&memory, 0, bytemuck::cast_slice(values)).unwrap();
    memory
}

fn download(device: &Device, memory: &Memory) -> Vec<f32> {
    let mut values = vec![0f32; memory.bytes() / 4];
    device.read(bytemuck::cast_slice_mut(&mut values), memory, 0).unwrap();
    values
}

/// The pattern for a test of one kernel: ugly shapes, both flavours, some schedules, plain loops as the oracle.
#[test]
fn position_sum_on_both_flavours() {
    for (flavour, seed) in [(Flavour::Fast, 0), (Flavour::Check, 0), (Flavour::Check, 1), (Flavour::Check, 2)] {
        let device = Device::emulator(flavour, seed).unwrap();
        for (batch, length, channels) in [(1usize, 1usize, 1usize), (2, 31, 33), (5, 13, 17), (1, 100, 64)] {
            let mut random = Stream::new(7, 0, 0);
            let inp: Vec<f32> = (0..batch * length * channels).map(|_| random.normal() as f32).collect();
            let source = upload(&device, &inp);
            let out = device.alloc(batch * channels * 4).unwrap();
            let p = [batch as i32, length as i32, channels as i32];
            let grid = Grid::new([batch, channels.div_ceil(32), 1], 256);
            // SAFETY: `inp` holds B*L*C floats and `out` B*C; the kernel reads and writes inside those.
            unsafe { device.launch("position_sum_forward", grid, args![p, source.address(), out.address()]) }.unwrap();
            for (i, &got) in download(&device, &out).iter().enumerate() {
                let (b, c) = (i / channels, i % channels);
                let sum: f64 = (0..length).map(|l| f64::from(inp[(b * length + l) * channels + c])).sum();
                assert!((f64::from(got) - sum).abs() < 1e-4, "{flavour:?} [{b},{c}] {got} {sum}");
            }
        }
    }
}

#[test]
fn wrong_launches_are_refused_by_name() {
    let device = Device::emulator(Flavour::Check, 0).unwrap();
    let memory = device.alloc(64).unwrap();
    // SAFETY: none of these starts.
    let launch =
        |kernel: &str, grid, args: &[&[u8]]| unsafe { device.launch(kernel, grid, args) }.unwrap_err().to_string();
    let grid = Grid::new([1, 1, 1], 256);
    let params = [1i32, 1, 1];
    assert!(launch("no_such_kernel", grid, args![]).contains("no_such_kernel"));
    assert!(launch("position_sum_forward", grid, args![params]).contains("[12, 8, 8]"));
    assert!(launch("position_sum_forward", grid, args![params, 1i32, memory.address()]).contains("[12, 4, 8]"));
    let at = memory.address();
    let arguments: &[&[u8]] = args![params, at, at];
    assert!(launch("position_sum_forward", Grid::new([1, 1, 1], 512), arguments).contains("takes 1 to 256"));
    assert!(launch("position_sum_forward", Grid::new([1, 70_000, 1], 256), arguments).contains("too large"));
    assert!(launch("position_sum_forward", grid.shared(1 << 20), arguments).contains("shared memory"));
}

#[test]
fn copies_stay_inside_their_memory() {
    let device = Device::emulator(Flavour::Check, 0).unwrap();
    let (a, b) = (device.alloc(10).unwrap(), device.alloc(10).unwrap());
    assert!(device.write(&a, 4, &[0; 7]).unwrap_err().to_string().contains("4+7"));
    assert!(device.read(&mut [0; 11], &a, 0).is_err());
    assert!(device.read(&mut [0; 1], &a, 0).unwrap_err().to_string().contains("never written"));
    device.write(&a, 0, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]).unwrap();
    device.copy(&b, 1, &a, 3, 5).unwrap();
    let mut five = [0; 5];
    device.read(&mut five, &b, 1).unwrap();
    assert_eq!(five, [4, 5, 6, 7, 8]);
    assert!(device.read(&mut [0; 6], &b, 1).is_err(), "byte 6 was never written");
    let other = Device::emulator(Flavour::Check, 0).unwrap();
    assert!(other.read(&mut five, &b, 0).unwrap_err().to_string().contains("another device"));
}

#[test]
fn memory_is_reused_and_counted() {
    let device = Device::emulator(Flavour::Fast, 0).unwrap();
    let first = device.alloc(1000).unwrap();
    let address = first.address();
    drop(first);
    assert_eq!(device.alloc(1010).unwrap().address(), address);
    let usage = device.usage();
    assert_eq!((usage.current, usage.peak, usage.kept), (0, 1024, 1024));
    device.trim().unwrap();
    assert_eq!(device.usage().kept, 0);
    let error = device.alloc(1 << 50).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("out of memory") && error.contains("batch"), "{error}");
}

#[test]
fn launch_parameters_have_the_same_size_on_both_sides() {
    let sizes = params_sizes();
    let size = |name: &str| sizes.iter().find(|(n, _)| n == name).map(|(_, s)| *s);
    assert_eq!(size("StepState"), Some(size_of::<epi_engine::backend::StepState>()));
    assert_eq!(size("PositionSum"), Some(12));
}

#[test]
fn the_list_of_kernels_is_complete_and_without_doubles() {
    let mut names: Vec<&str> = modules::KERNELS.iter().map(|(_, kernel)| *kernel).collect();
    assert!(names.contains(&"position_sum_forward") && names.contains(&"intrinsic_mma_bf16"));
    names.sort_unstable();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count);
}
