//! Products of every instruction set and both kinds of operands against plain sums in f64 over operands that are rounded alike.

use half::bf16;

use super::*;
use crate::backend::DType;
use crate::backend::cpu::Isa;
use crate::rng::Stream;

fn cpus() -> Vec<Cpu> {
    let available = Isa::ALL.into_iter().filter_map(|isa| Cpu::with_isa(isa).ok());
    available.flat_map(|cpu| [cpu.clone(), cpu.with_precision(DType::BF16)]).collect()
}

fn numbers(n: usize, stream: u32) -> Vec<f32> {
    let mut random = Stream::new(7, stream, 0);
    (0..n).map(|_| random.normal() as f32).collect()
}

/// As the operands of `cpu` are rounded.
fn rounded(cpu: &Cpu, values: &[f32]) -> Vec<f64> {
    let round = |&x: &f32| if cpu.target().bf16 { bf16::from_f32(x).to_f64() } else { x.into() };
    values.iter().map(round).collect()
}

/// Sum of `k` products `a(i) b(i)`, and the limit of the error of a sum in f32.
fn sum(k: usize, term: impl Fn(usize) -> (f64, f64)) -> (f64, f64) {
    let (mut sum, mut size) = (0.0, 0.0);
    for i in 0..k {
        let (a, b) = term(i);
        sum += a * b;
        size += (a * b).abs();
    }
    (sum, f64::from(f32::EPSILON) * size * (1.0 + (k as f64).sqrt() / 4.0))
}

fn epilogues(bias: &[f32]) -> [Epilogue; 4] {
    let all = Some(Ptr::of(bias));
    [
        Epilogue::STORE,
        Epilogue::ADD,
        Epilogue { bias: all, relu: true, ..Epilogue::STORE },
        Epilogue { bias: all, leaky: Some(0.25), accumulate: true, ..Epilogue::STORE },
    ]
}

/// What `epilogue` makes of a sum over what was there `before`.
fn finished(epilogue: &Epilogue, sum: f64, before: f32, bias: f32) -> f64 {
    let mut x = sum;
    x += if epilogue.accumulate { f64::from(before) } else { 0.0 };
    x += if epilogue.bias.is_some() { f64::from(bias) } else { 0.0 };
    match epilogue.leaky {
        Some(slope) => x.max(f64::from(slope) * x),
        None if epilogue.relu => x.max(0.0),
        None => x,
    }
}

#[test]
fn products_are_those_of_rounded_operands() {
    let sizes: [[usize; 3]; 10] = [
        [1, 1, 1],
        [2, 2, 50],
        [7, 3, 23],
        [8, 16, 48],
        [9, 17, 8],
        [131, 33, 7],
        [129, 100, 400],
        [16, 1027, 25],
        [3, 2050, 49],
        [140, 64, 97],
    ];
    for cpu in cpus() {
        for [m, k, n] in sizes {
            // Rows that lie apart, and rows that overlap.
            for lda in [k + 3, k.div_ceil(2)] {
                let (a, b) = (numbers((m - 1) * lda + k, 1), numbers(k * n, 2));
                let (bias, before) = (numbers(n, 3), numbers(m * n, 4));
                let (x, y) = (rounded(&cpu, &a), rounded(&cpu, &b));
                let panels = Panels::plain(&cpu, &b, k, n).unwrap();
                let turned: Vec<f32> = (0..n * k).map(|i| b[i % k * n + i / k]).collect();
                let same = Panels::transposed(&cpu, &turned, n, k).unwrap();
                for (number, epilogue) in epilogues(&bias).into_iter().enumerate() {
                    let panels = if number % 2 == 0 { &panels } else { &same };
                    let mut c = before.clone();
                    // SAFETY: sizes as above.
                    unsafe { multiply(&cpu, m, Ptr::of(&a), lda, panels, Ptr(c.as_mut_ptr()), n, epilogue).unwrap() };
                    let mut apart = 0;
                    for (at, &got) in c.iter().enumerate() {
                        let (i, j) = (at / n, at % n);
                        let (value, limit) = sum(k, |t| (x[i * lda + t], y[t * n + j]));
                        let limit = limit + 2e-7 * (f64::from(before[at]).abs() + f64::from(bias[j]).abs());
                        let want = finished(&epilogue, value, before[at], bias[j]);
                        let what = format!("{:?} {m} x {k} x {n} by {lda}, {number}", cpu.target());
                        assert!((f64::from(got) - want).abs() <= limit, "{what}: ({i},{j}) = {got}, not {want}");
                        let (exact, _) = sum(k, |t| (a[i * lda + t].into(), b[t * n + j].into()));
                        apart += usize::from((exact - value).abs() > limit);
                    }
                    // The limit tells operands that were rounded from others.
                    assert_eq!(apart > c.len() / 2, cpu.target().bf16, "{apart} of {} are apart", c.len());
                }
            }
        }
    }
}

#[test]
fn sums_over_rows_are_those_of_rounded_operands() {
    for cpu in cpus() {
        for [rows, m, n] in
            [[1, 1, 1], [2, 9, 50], [3, 8, 23], [255, 16, 7], [257, 5, 48], [1025, 70, 33], [4099, 3, 17]]
        {
            let (lda, ldb) = (m + 2, n + 1);
            let (a, b) = (numbers(rows * lda, 5), numbers(rows * ldb, 6));
            let (x, y) = (rounded(&cpu, &a), rounded(&cpu, &b));
            // SAFETY: sizes as above.
            let c = unsafe { multiply_transposed(&cpu, rows, m, n, Ptr::of(&a), lda, Ptr::of(&b), ldb).unwrap() };
            for (at, &got) in c.slice(0, m * n).iter().enumerate() {
                let (want, limit) = sum(rows, |r| (x[r * lda + at / n], y[r * ldb + at % n]));
                let what = format!("{:?} {rows} x {m} x {n}", cpu.target());
                assert!((f64::from(got) - want).abs() <= limit, "{what}: {at} = {got}, not {want}");
            }
        }
    }
}

#[test]
fn rows_that_overlap_may_lie_as_words() {
    for cpu in cpus() {
        let (terms, [m, k, n, step]) = (cpu.target().terms(), [19, 30, 37, 4]);
        let (values, b) = (numbers((m - 1) * step + k, 8), numbers(k * n, 9));
        let (x, y) = (rounded(&cpu, &values), rounded(&cpu, &b));
        let panels = Panels::plain(&cpu, &b, k, n).unwrap();
        let mut space = values.clone();
        space.resize(values.len().next_multiple_of(16), f32::NAN);
        let mut c = vec![0.0; m * n];
        // SAFETY: sizes as above.
        unsafe {
            let at = Ptr(space.as_mut_ptr());
            halve_in_place(cpu.target(), at, values.len());
            let left = Left::words(at, step / terms);
            block(cpu.target(), [m, k, n], left, panels.ptr(), Ptr(c.as_mut_ptr()), n, Epilogue::STORE);
        }
        for (at, &got) in c.iter().enumerate() {
            let (want, limit) = sum(k, |t| (x[at / n * step + t], y[t * n + at % n]));
            assert!((f64::from(got) - want).abs() <= limit, "{:?}: {at} = {got}, not {want}", cpu.target());
        }
    }
}
