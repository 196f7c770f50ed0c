//! Launch parameters: the mirror of kernels/include/params.cuh, field by field.

use bytemuck::{Pod, Zeroable};

/// Declares the mirrors and lists their names and sizes, for the test that compares them with the kernels' own.
macro_rules! params {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* $(,)? })*) => {
        $(
            $(#[$doc])*
            #[repr(C)]
            #[derive(Clone, Copy, Debug, Pod, Zeroable)]
            pub struct $name { $(pub $field: $type),* }
        )*
        /// Name and size of every structure here.
        #[cfg(all(test, emulator))]
        pub const SIZES: &[(&str, usize)] = &[$((stringify!($name), size_of::<$name>())),*];
    };
}

params! {
    /// Dropout of one layer; threshold 0: none.
    DropoutParams { seed: u64, stream: u32, threshold: u32, scale: f32, reserved: u32 }
    /// Sum over positions: `batch` sequences of `length` positions with `channels` values each.
    PositionSum { batch: i32, length: i32, channels: i32 }
    /// `C[m,n] (+)= Σ_k A[m,k] B[k,n]`, k in chunks; see kernels/include/params.cuh for the rest.
    Gemm {
        m: i32, n: i32, k: i32, lda: i32, ldb: i32, ldc: i32, k_chunk: i32, mask_period: i32, accumulate: i32, relu: i32,
        parts: i32, part_a: i32, part_b: i32, split: i32, jump: i32, sums: i32,
    }
    /// A product whose B goes on in a second matrix; see kernels/include/params.cuh.
    GemmBeside { gemm: Gemm, columns: i32, pitch: i32, period: i32, edge: i32 }
    /// Strided correlation of `[batch,length,inputs]` with `[outputs,inputs,kernel]`, then LeakyReLU (slope 1: none).
    Conv {
        batch: i32, length: i32, inputs: i32, outputs: i32, kernel: i32, stride: i32, padding: i32, out_length: i32, k_chunk: i32,
        words: i32, slope: f32,
    }
    /// A product with windows of sequences as its rows; see kernels/include/params.cuh.
    ConvGemm { gemm: Gemm, rows: i32, origin: i32, sample: i32, step: i32, first: i32, length: i32, slope: f32 }
    /// A weight as rows of (tap, channel).
    ConvPack {
        lines: i32, taps: i32, channels: i32, line_stride: i32, channel_stride: i32, first: i32, step: i32, pitch: i32,
    }
    /// `bases` of sequences of `length`, sums in chunks of `chunk` bases.
    ReconstructionParams { bases: i32, length: i32, words: i32, chunk: i32 }
    /// Normal noise of one layer for `count` elements.
    NoiseParams { seed: u64, stream: u32, count: i32 }
    /// Latent variables `[batch,size]`.
    LatentParams { batch: i32, size: i32 }
    /// `rows` x `columns`, cut into chunks of rows.
    Columns { rows: i32, columns: i32, chunk: i32 }
    /// Batch norm of `rows` x `columns`, statistics in `chunks` of `chunk` rows.
    BatchNormParams { rows: i32, columns: i32, chunk: i32, chunks: i32, eps: f32, momentum: f32, train: i32 }
    /// Max pooling of `[batch,length,channels]` to `[batch,pooled,channels]`.
    MaxPool { batch: i32, length: i32, channels: i32, size: i32, pooled: i32 }
    /// A block of `rows` x `width` inside matrices of two pitches.
    CopyRows { rows: i32, width: i32, src_pitch: i32, dst_pitch: i32 }
    /// `[a,b,c] -> [b,a,c]`
    Swap { a: i32, b: i32, c: i32 }
    /// The DNA block; see kernels/dna_conv.cu for `mode`.
    DnaConvParams {
        dropout: DropoutParams, batch: i32, length: i32, words: i32, channels: i32, kernel: i32, pool: i32, conv_length: i32,
        pooled: i32, slices: i32, mode: i32, eps: f32, momentum: f32,
    }
    /// One bidirectional LSTM layer.
    LstmParams { batch: i32, time: i32, hidden: i32, hard: i32, save: i32 }
    /// Multi-head attention.
    AttentionParams {
        dropout: DropoutParams, batch: i32, time: i32, heads: i32, head_size: i32, relu: i32, pitch: i32, scale: f32,
        head_pitch: i32,
    }
    /// Readout of `[batch,channels]`.
    ReadoutParams { batch: i32, channels: i32 }
    /// Losses on `[batch,logits]`; see kernels/loss.cu for `kind`.
    LossParams { batch: i32, logits: i32, classes: i32, kind: i32 }
    /// Batches of a list of `samples`; see kernels/gather.cu.
    GatherParams {
        seed: u64, samples: i32, keyed: i32, half: i32, shift: i32, reverse_complement: i32, enhancer_length: i32,
        promoter_length: i32, flank: i32,
    }
    /// One range of the flat parameter buffer.
    ParamRange { offset: i32, len: i32, l2: f32, frozen: i32 }
    /// Adam over `count` elements in `chunks` of `chunk`; `clip <= 0`: none.
    AdamParams {
        count: i32, ranges: i32, chunk: i32, chunks: i32, beta1: f32, beta2: f32, eps: f32, clip: f32,
    }
}

/// Dropout as kernels receive it.
pub fn dropout_params(dropout: Option<&crate::rng::Dropout>) -> DropoutParams {
    dropout.map_or(DropoutParams::zeroed(), |d| DropoutParams {
        seed: d.seed,
        stream: d.stream,
        threshold: d.threshold(),
        scale: d.scale(),
        reserved: 0,
    })
}

#[cfg(all(test, emulator))]
mod tests {
    #[test]
    fn both_sides_agree_on_every_size() {
        let kernels = crate::backend::cuda::device::params_sizes();
        use crate::backend::{OrderEntry, StepState};
        let shared = [("StepState", size_of::<StepState>()), ("OrderEntry", size_of::<OrderEntry>())];
        for &(name, size) in super::SIZES.iter().chain(&shared) {
            let theirs = kernels.iter().find(|(theirs, _)| *theirs == name);
            assert_eq!(theirs.map(|(_, size)| *size), Some(size), "{name}");
        }
        assert_eq!(kernels.len(), super::SIZES.len() + shared.len(), "{kernels:?}");
    }
}
