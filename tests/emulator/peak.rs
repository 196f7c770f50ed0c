//! The kernels that measure a card's ceilings compute what they claim to.

use epi_engine::args;
use epi_engine::backend::cuda::device::{Device, Flavour, Grid};

#[test]
fn peak_kernels_do_their_arithmetic() {
    for flavour in [Flavour::Fast, Flavour::Check] {
        let device = Device::emulator(flavour, 0).unwrap();
        let out = device.alloc(2 * 256 * 4).unwrap();
        let run = |kernel: &str, args: &[&[u8]]| {
            // SAFETY: two blocks of 256 threads write one float each.
            unsafe { device.launch(kernel, Grid::new([2, 1, 1], 256), args) }.unwrap();
            let mut values = vec![0f32; 512];
            device.read(bytemuck::cast_slice_mut(&mut values), &out, 0).unwrap();
            values
        };
        // x = 2 x + 1, three times: 8 i + 7, summed over i < 16.
        assert_eq!(run("peak_fma", args![3i32, 2f32, 1f32, out.address()]), vec![8.0 * 120.0 + 7.0 * 16.0; 512]);
        // Ones: each of 32 accumulators gains 16 a round.
        assert_eq!(run("peak_mma", args![2i32, 0x3F80_3F80u32, out.address()]), vec![32.0 * 32.0; 512]);
    }
}
