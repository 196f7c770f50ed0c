//! `epi-engine study`: many runs from one file.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::info::COMMIT;
use super::summary::thousands;
use super::watch::{catch_interrupts, interrupted};
use super::{Output, output};
use crate::error::Error;
use crate::study::{CellState, Observer, Plan, Study, lock};

/// Make many runs from one file: models, cell lines, protocols, folds, seeds; resumable, one run folder each
#[derive(clap::Args)]
#[command(after_help = "Examples:
  epi-engine study examples/study.toml --dry-run         the cells, what each will train on, how long all will take
  epi-engine study examples/study.toml --data-dir data   run what is not done; Ctrl-C saves, the same command goes on
  epi-engine study my.toml --out runs/mine --scale 0.1 --at-once 2 --json")]
pub struct Args {
    /// The study: sources of pairs, and groups of runs over them
    #[arg(value_name = "FILE.toml")]
    file: PathBuf,
    /// Folder of the study (default: the file's `out`, else runs/study)
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Folder that the file's relative paths of data start from
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// auto, cpu, cuda[:N], emulator or reference
    #[arg(long)]
    device: Option<String>,
    /// Multiply every sample budget, e.g. 0.1 for a quick look
    #[arg(long, value_name = "FACTOR")]
    scale: Option<f64>,
    /// Cells that run at the same time; results are those of one after the other, except in bf16 on a card, where any number above 1
    /// has the same
    #[arg(long, value_name = "N")]
    at_once: Option<usize>,
    /// Print the cells, their budgets and the time they will take, and stop
    #[arg(long)]
    dry_run: bool,
}

pub fn run(args: &Args, out: &Output) -> anyhow::Result<ExitCode> {
    let mut study = Study::read(&args.file)?;
    if let Some(folder) = &args.out {
        study.out.clone_from(folder);
    }
    if let Some(device) = &args.device {
        study.device.clone_from(device);
    }
    study.data_dir = args.data_dir.clone().or(study.data_dir);
    study.scale = args.scale.unwrap_or(study.scale);
    study.at_once = args.at_once.unwrap_or(study.at_once);
    study.validate()?;
    let folder = study.out.clone();
    let command = std::env::args().collect::<Vec<_>>().join(" ");
    if args.dry_run {
        let plan = Plan::new(study, &folder, command, COMMIT, false)?;
        table(&plan, out);
        out.document(&document(&plan));
        return Ok(ExitCode::SUCCESS);
    }
    // Settings that cannot work are found before anything is written.
    crate::study::tasks(&study, &folder)?;
    let _lock = lock(&folder)?;
    let mut plan = Plan::new(study, &folder, command, COMMIT, true)?;
    out.note(format!("device     {}", plan.index.device));
    out.note(format!("writes to  {}", folder.display()));
    out.note(overview(&plan, plan.seconds_left(|_| 0.0)));
    catch_interrupts();
    let mut live = Live::new(out, &plan);
    let ran = plan.run(&mut live, &interrupted);
    live.finish();
    ran?;
    table(&plan, out);
    out.document(&document(&plan));
    if interrupted() {
        let (done, all) = (plan.count(CellState::Done), plan.tasks.len());
        let message = format!("{done} of {all} cells are done; the same command goes on with the others");
        return Err(Error::Interrupted(message).into());
    }
    let failed: Vec<String> = plan
        .index
        .cells
        .iter()
        .filter(|cell| cell.state == CellState::Failed)
        .map(|cell| format!("  {}: {}", cell.title(), cell.reason.as_deref().unwrap_or("")))
        .collect();
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    out.note(format!("{} of {} cells failed:\n{}", failed.len(), plan.tasks.len(), failed.join("\n")));
    Ok(ExitCode::FAILURE)
}

/// How many cells are in which state, and the time left.
fn overview(plan: &Plan, left: Option<f64>) -> String {
    let mut text = format!("{} cells", plan.tasks.len());
    for state in [CellState::Done, CellState::Failed, CellState::NoData, CellState::Interrupted, CellState::Pending] {
        let n = plan.count(state);
        if n > 0 {
            text += &format!(", {n} {}", state.name());
        }
    }
    match left {
        Some(seconds) if seconds > 0.0 => text + &format!("; about {} left", duration(seconds)),
        _ => text,
    }
}

/// `45 s`, `12 min`, `3 h 05 min`.
fn duration(seconds: f64) -> String {
    let minutes = (seconds / 60.0).round() as u64;
    match minutes {
        0..2 => format!("{seconds:.0} s"),
        2..90 => format!("{minutes} min"),
        _ => format!("{} h {:02} min", minutes / 60, minutes % 60),
    }
}

/// Every cell: what it is, its budget, what it took or will take, its state.
fn table(plan: &Plan, out: &Output) {
    let width = plan.index.cells.iter().map(|cell| cell.title().len()).max().unwrap_or(0);
    out.line(format!("{:<width$}  {:>9} {:>9} {:>12}  state", "cell", "training", "scoring", "time"));
    for (cell, estimate) in plan.index.cells.iter().zip(&plan.estimates) {
        let time = match (cell.state, estimate.seconds) {
            (CellState::Done, _) => duration(cell.seconds),
            (CellState::Pending | CellState::Interrupted, Some(seconds)) => format!("~ {}", duration(seconds)),
            _ => "-".into(),
        };
        let reason = cell.reason.as_deref().map_or(String::new(), |reason| match cell.state {
            CellState::NoData => format!(": {}", reason.trim_start_matches("no data here: ")),
            _ => format!(": {reason}"),
        });
        out.line(format!(
            "{:<width$}  {:>9} {:>9} {time:>12}  {}{reason}",
            cell.title(),
            thousands(estimate.train as usize),
            thousands(estimate.score as usize),
            cell.state.name()
        ));
    }
    out.line(overview(plan, plan.seconds_left(|_| 0.0)));
}

/// The index, with the estimates beside the cells.
fn document(plan: &Plan) -> Value {
    let mut document = json!(plan.index);
    if let Some(cells) = document["cells"].as_array_mut() {
        for (cell, estimate) in cells.iter_mut().zip(&plan.estimates) {
            cell["estimate"] = json!({
                "samples_trained": estimate.train, "samples_scored": estimate.score, "seconds": estimate.seconds,
            });
        }
    }
    document["out"] = json!(plan.out);
    document["seconds_left"] = json!(plan.seconds_left(|_| 0.0));
    document
}

/// Cells that wait, shown below those that run.
const NEXT: usize = 8;

/// On a terminal: finished cells above, a bar for each running one, the next ones below them, and what is left. Otherwise a line
/// for every change.
struct Live<'a> {
    out: &'a Output,
    bars: MultiProgress,
    running: BTreeMap<usize, Bar>,
    waiting: Vec<ProgressBar>,
    total: ProgressBar,
    /// When the lines below were last drawn.
    drawn: Instant,
}

/// A running cell's.
struct Bar {
    bar: ProgressBar,
    share: f64,
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is constant")
}

impl<'a> Live<'a> {
    fn new(out: &'a Output, plan: &Plan) -> Self {
        let bars = MultiProgress::with_draw_target(output::target());
        let line = || bars.add(ProgressBar::new(1).with_style(style("{wide_msg}")));
        let waiting = (0..NEXT).map(|_| line()).collect();
        let total = line();
        let mut live = Live { out, bars, running: BTreeMap::new(), waiting, total, drawn: Instant::now() };
        live.below(plan);
        live
    }
    /// What comes next, and the time left.
    fn below(&mut self, plan: &Plan) {
        self.drawn = Instant::now();
        let next = plan.index.cells.iter().filter(|cell| cell.state == CellState::Pending);
        let mut titles = next.map(|cell| format!("  then {}", cell.title()));
        self.waiting.iter().for_each(|line| line.set_message(titles.next().unwrap_or_default()));
        self.total.set_message(overview(plan, self.left(plan)));
    }
    fn left(&self, plan: &Plan) -> Option<f64> {
        plan.seconds_left(|cell| self.running.get(&cell).map_or(0.0, |bar| bar.share))
    }
    fn finish(&self) {
        let running = self.running.values().map(|bar| &bar.bar);
        running.chain(&self.waiting).chain([&self.total]).for_each(ProgressBar::finish_and_clear);
    }
    fn hidden(&self) -> bool {
        self.total.is_hidden()
    }
    fn line(&self, text: &str) {
        if self.hidden() {
            self.out.note(text);
        } else {
            let _ = self.bars.println(text);
        }
    }
}

impl Observer for Live<'_> {
    fn changed(&mut self, plan: &Plan, cell: usize) {
        let at = &plan.index.cells[cell];
        let reason = at.reason.as_deref().map_or(String::new(), |reason| format!(": {reason}"));
        let (n, all, title) = (cell + 1, plan.tasks.len(), at.title());
        if at.state == CellState::Running {
            let bar = ProgressBar::new(1000).with_style(style("{prefix} {bar:24.cyan/dim} {wide_msg}"));
            let bar = self.bars.insert_before(&self.waiting[0], bar);
            bar.set_prefix(title.clone());
            self.running.insert(cell, Bar { bar, share: 0.0 });
            if self.hidden() {
                self.line(&format!("[{n}/{all}] {title}: running"));
            }
        } else {
            if let Some(Bar { bar, .. }) = self.running.remove(&cell) {
                bar.finish_and_clear();
                self.bars.remove(&bar);
            }
            let left = self.left(plan).map_or(String::new(), |s| format!("; about {} left", duration(s)));
            let time = duration(at.seconds);
            self.line(&format!("[{n}/{all}] {title}: {} after {time}{reason}{left}", at.state.name()));
        }
        self.below(plan);
    }
    fn progress(&mut self, plan: &Plan, cell: usize, share: Option<f64>, words: &str) {
        let Some(running) = self.running.get_mut(&cell) else { return };
        running.share = share.unwrap_or(running.share);
        running.bar.set_position((1000.0 * running.share) as u64);
        running.bar.set_message(words.to_string());
        if self.drawn.elapsed() > Duration::from_secs(1) {
            self.below(plan);
        }
    }
    fn say(&mut self, plan: &Plan, cell: usize, line: &str) {
        if !self.hidden() {
            let title = if self.running.len() > 1 { plan.index.cells[cell].title() + ": " } else { String::new() };
            self.line(&format!("    {title}{line}"));
        }
    }
}
