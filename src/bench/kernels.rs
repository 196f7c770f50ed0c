//! Single primitives: validated on a small shape, then timed on the full one.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::cases::{self, Case, Maker, Outputs, Size};
use super::statistics::Timing;
use crate::backend::Backend;
use crate::backend::cost::{Ceilings, Cost};
use crate::backend::reference::Reference;
use crate::error::{Error, Result};

/// What to time, and how long.
#[derive(Clone, Debug)]
pub struct KernelBench {
    pub size: Size,
    /// Only cases whose name contains this.
    pub filter: String,
    /// Seconds of timed executions per case, though never fewer than 5 nor more than 100 of them.
    pub seconds: f64,
    /// Allowed deviation besides three times that of plain f32 loops, relative to the largest element: `16 ε` for f32,
    /// more where products round their inputs.
    pub slack: f64,
}

/// One line of the result.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    pub name: String,
    pub shape: String,
    #[serde(flatten)]
    pub timing: Timing,
    pub gflops: f64,
    pub gbytes_s: f64,
    /// Share of what the ceilings of this device allow; `None` without ceilings.
    pub roofline: Option<f64>,
    /// The ceiling that counts: `memory` or `arithmetic`.
    pub bound: Option<String>,
    pub device: String,
    pub commit: String,
    /// `ms_median` of an earlier run over this one's: above 1 is faster.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub speedup: Option<f64>,
}

/// The cases whose name contains `filter`; an error that lists them all when there is none.
pub fn chosen<B: Backend>(filter: &str) -> Result<Vec<(&'static str, cases::Build<B>)>> {
    let (chosen, others): (Vec<_>, Vec<_>) = cases::all::<B>().into_iter().partition(|(name, _)| name.contains(filter));
    if chosen.is_empty() {
        let names: Vec<_> = others.into_iter().map(|(name, _)| name).collect();
        return Err(Error::config("--filter", format!("`{filter}` fits none of {}", names.join(", "))));
    }
    Ok(chosen)
}

/// Validates and times every case that the filter lets through. `each` sees the rows as they come.
///
/// # Errors
/// A primitive whose results are wrong is not timed: the error names it, the worst element and the limit.
pub fn run<B: Backend>(
    b: &B,
    bench: &KernelBench,
    ceilings: Option<&Ceilings>,
    mut each: impl FnMut(&Row),
) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (name, build) in chosen(&bench.filter)? {
        validate(b, name, bench)?;
        let case = build(&Maker::new(b, &bench.size)?)?;
        let timing = time(b, &case, bench.seconds, ceilings.is_some())?;
        let row = row(b, name, &case, timing, ceilings);
        each(&row);
        rows.push(row);
    }
    Ok(rows)
}

fn row<B: Backend>(b: &B, name: &str, case: &Case<B>, timing: Timing, ceilings: Option<&Ceilings>) -> Row {
    let Cost { flops, bytes } = case.cost;
    let seconds = timing.ms_median / 1e3;
    let floor = ceilings.map(|c| case.cost.floor(c));
    Row {
        name: name.into(),
        shape: case.shape.clone(),
        timing,
        gflops: flops / seconds / 1e9,
        gbytes_s: bytes / seconds / 1e9,
        roofline: floor.map(|(floor, _)| floor / seconds),
        bound: floor.map(|(_, memory)| if memory { "memory" } else { "arithmetic" }.into()),
        device: b.name(),
        commit: super::commit(),
        speedup: None,
    }
}

/// Outputs of one execution of case `name`, on the host.
fn outputs<B: Backend>(b: &B, name: &str, size: &Size) -> Result<Vec<Vec<f64>>> {
    let (_, build) = cases::all::<B>().into_iter().find(|(n, _)| *n == name).expect("a case of the same list");
    let run = (build(&Maker::new(b, size)?)?.prepare)()?;
    run()?.iter().map(|tensor| b.to_f64(tensor)).collect()
}

/// Runs the case on a small shape and holds it against plain loops in f64; plain loops in f32 set the tolerance.
fn validate<B: Backend>(b: &B, name: &str, bench: &KernelBench) -> Result<()> {
    let size = bench.size.small();
    let fast = outputs(b, name, &size)?;
    let truth = outputs(&Reference::<f64>::new(), name, &size)?;
    let naive = outputs(&Reference::<f32>::new(), name, &size)?;
    verdict(&truth, &naive, &fast, bench.slack)
        .map_err(|what| Error::Device(format!("{name} is wrong on {}, so it is not timed: {what}", b.name())))
}

fn verdict(truth: &[Vec<f64>], naive: &[Vec<f64>], fast: &[Vec<f64>], slack: f64) -> std::result::Result<(), String> {
    let lengths = |list: &[Vec<f64>]| list.iter().map(Vec::len).collect::<Vec<_>>();
    if lengths(truth) != lengths(fast) {
        return Err(format!("outputs of {:?} elements instead of {:?}", lengths(fast), lengths(truth)));
    }
    let largest = |values: &[f64]| values.iter().fold(0f64, |top, v| top.max(v.abs()));
    let top = truth.iter().map(|values| largest(values)).fold(0.0, f64::max);
    for (n, ((truth, naive), fast)) in truth.iter().zip(naive).zip(fast).enumerate() {
        let error = |values: &[f64], i: usize| (values[i] - truth[i]).abs();
        let naive_error = (0..truth.len()).map(|i| error(naive, i)).fold(0.0, f64::max);
        let limit = 3.0 * naive_error + slack * (largest(truth) + top / 8.0);
        // NaN never passes.
        if let Some(i) = (0..truth.len()).find(|&i| error(fast, i).is_nan() || error(fast, i) > limit) {
            return Err(format!(
                "output {n} element {i} is {:e} instead of {:e}, limit {limit:.1e}",
                fast[i], truth[i]
            ));
        }
    }
    Ok(())
}

/// Times executions one by one, each between two synchronisations and after caches were `flush`ed.
fn time<B: Backend>(b: &B, case: &Case<B>, budget: f64, flush: bool) -> Result<Timing> {
    let sweep = if flush { Some(b.zeros(&[32 << 20])?) } else { None };
    let once = || -> Result<f64> {
        let run = (case.prepare)()?;
        if let Some(sweep) = &sweep {
            b.fill_zero(sweep)?;
        }
        b.synchronize()?;
        let started = Instant::now();
        let out: Outputs<B> = run()?;
        b.synchronize()?;
        let seconds = started.elapsed().as_secs_f64();
        drop(out);
        Ok(seconds)
    };
    once()?;
    let mut seconds = Vec::new();
    while seconds.len() < 5 || (seconds.iter().sum::<f64>() < budget && seconds.len() < 100) {
        seconds.push(once()?);
    }
    Ok(Timing::of(seconds))
}

/// Rows of an earlier run: what `bench kernels --json` printed, or a file of `benches/results` that holds it.
pub fn read(path: &std::path::Path) -> Result<Vec<Row>> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path))?;
    let wrong = |e: serde_json::Error| {
        Error::input(path, e.line() as u64, format!("not the output of `bench kernels --json`: {e}"))
    };
    let mut document: serde_json::Value = serde_json::from_str(&text).map_err(wrong)?;
    if let Some(rows) = document.get_mut("kernels") {
        document = rows.take();
    }
    serde_json::from_value(document).map_err(wrong)
}

/// Fills in the speed-up over the row of the same name and shape, if there is one.
pub fn compare(rows: &mut [Row], earlier: &[Row]) {
    for row in rows {
        let same = earlier.iter().find(|e| (&e.name, &e.shape) == (&row.name, &row.shape));
        row.speedup = same.map(|e| e.timing.ms_median / row.timing.ms_median);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::Cpu;
    use crate::config::{EplaeConfig, EpsatConfig, SpeidConfig};
    use crate::models::{Epsat, Model, Speid};

    fn tiny() -> KernelBench {
        let model = EpsatConfig { kernels: 8, hidden: 4, heads: 2, head_size: 4, readout: 5, ..EpsatConfig::default() };
        let autoencoder = EplaeConfig { filters: 6, units: 9, ..EplaeConfig::default() };
        let speid = SpeidConfig { kernels: 9, hidden: 5, dense: 7, ..SpeidConfig::default() };
        let size = Size { batch: 2, enhancer_length: 70, promoter_length: 50, model, speid, autoencoder };
        KernelBench { size, filter: String::new(), seconds: 0.0, slack: 16.0 * f64::from(f32::EPSILON) }
    }

    #[test]
    fn every_case_is_right_and_timed() {
        let ceilings = Ceilings { flops: 1e9, bytes: 1e9 };
        let cpu = Cpu::new();
        let mut rows = run(&cpu, &tiny(), Some(&ceilings), |_| {}).unwrap();
        assert_eq!(rows.len(), cases::all::<Cpu>().len());
        assert!(
            rows.iter().all(|r| r.timing.ms_median > 0.0 && r.gbytes_s > 0.0 && r.roofline.is_some_and(|s| s > 0.0))
        );
        let earlier = rows.clone();
        compare(&mut rows, &earlier);
        assert!(rows.iter().all(|r| r.speedup == Some(1.0)));
    }

    #[test]
    fn an_unknown_filter_names_the_cases() {
        let error = run(&Cpu::new(), &KernelBench { filter: "nothing".into(), ..tiny() }, None, |_| {}).unwrap_err();
        assert!(error.to_string().contains("attention_backward"), "{error}");
    }

    #[test]
    fn wrong_results_are_not_timed() {
        let truth = vec![vec![1.0, -2.0], vec![0.5]];
        let slack = 1e-6;
        assert_eq!(verdict(&truth, &truth, &truth, slack), Ok(()));
        for wrong in
            [vec![vec![1.0, -2.1], vec![0.5]], vec![vec![1.0, -2.0], vec![f64::NAN]], vec![vec![1.0], vec![0.5]]]
        {
            assert!(verdict(&truth, &truth, &wrong, slack).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn formulas_add_up_to_the_model() {
        let (model, speid, autoencoder) = Default::default();
        let size = Size { batch: 1, enhancer_length: 3000, promoter_length: 2000, model, speid, autoencoder };
        let cost = |name| {
            let maker = Maker::new(&Cpu::new(), &size).unwrap();
            cases::all::<Cpu>().into_iter().find(|(n, _)| *n == name).unwrap().1(&maker).unwrap().cost.flops
        };
        let model = Epsat::new(EpsatConfig::default());
        let parts = 2.0 * cost("lstm") + cost("linear_qkv") + cost("attention") + cost("linear_mix");
        let convolutions = 2.0 * (2988 + 1988) as f64 * 200.0 * 52.0;
        let whole = model.flops_forward(3000, 2000);
        assert!((parts + convolutions - whole).abs() < 1e-6 * whole, "{parts} + {convolutions} is not {whole}");

        let model = Speid::new(SpeidConfig::default());
        let parts = cost("speid_lstm") + cost("speid_linear_dense") + 2.0 * 800.0;
        let convolutions = 2.0 * (2961 + 1961) as f64 * 200.0 * 160.0;
        let whole = model.flops_forward(3000, 2000);
        assert!((parts + convolutions - whole).abs() < 1e-6 * whole, "{parts} + {convolutions} is not {whole}");
    }
}
