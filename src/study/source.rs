//! The data of a study: opened where they are, made in the study's folder where the file says how, or not here.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::file::{Planted, Source, SourceKind, Study};
use super::plan::{data_path, located};
use crate::boosting::FeatureTable;
use crate::config::FeaturesConfig;
use crate::data::demo::demo;
use crate::data::pairs::{self, PairsOptions};
use crate::data::prepare::{self, PrepareOptions, provenance};
use crate::data::synth::{self, Background, SynthOptions};
use crate::data::{Contents, Dataset, Genome, meme};
use crate::error::{Error, Result};

/// The data of a source.
pub enum Data {
    Pairs(Dataset),
    Features(Box<FeatureTable>),
    /// Why they are not here.
    Missing(String),
}

/// Data of every source that is asked for, each opened once.
#[derive(Default)]
pub struct Sources {
    opened: BTreeMap<String, Data>,
}

impl Sources {
    /// The data of a source; what the study makes itself is written into `out` if `keep`, else held in memory.
    ///
    /// # Errors
    /// Whatever is wrong with files that are here; files that are not here are [`Data::Missing`].
    pub fn open(&mut self, study: &Study, name: &str, out: &Path, keep: bool) -> Result<&Data> {
        if !self.opened.contains_key(name) {
            let data = open(study, name, &study.data[name], out, keep)?;
            self.opened.insert(name.to_string(), data);
        }
        self.get(name)
    }
    /// The data of a source that was opened before.
    pub fn get(&self, name: &str) -> Result<&Data> {
        self.opened.get(name).ok_or_else(|| Error::config(format!("data.{name}"), "was not opened"))
    }
}

fn open(study: &Study, name: &str, source: &Source, out: &Path, keep: bool) -> Result<Data> {
    let inputs = [&source.file, &source.genome, &source.pairs, &source.features];
    let inputs: Vec<PathBuf> = inputs.into_iter().flatten().map(|path| located(study, path)).collect();
    if let Some(missing) = inputs.iter().find(|path| !path.exists()) {
        let remedy = match &study.data_dir {
            None => "give the folder that holds it with --data-dir",
            Some(_) => "put it there, or name another folder with --data-dir",
        };
        return Ok(Data::Missing(format!("no data here: {} is missing; {remedy}", missing.display())));
    }
    let path = data_path(study, name, source, out)?;
    Ok(match source.kind(name)? {
        SourceKind::Bundled => Data::Pairs(demo()?),
        SourceKind::File => Data::Pairs(Dataset::open(&inputs[0])?),
        SourceKind::Features => {
            let config = FeaturesConfig { path, ..FeaturesConfig::default() };
            Data::Features(FeatureTable::read(&config)?.into())
        }
        SourceKind::Genome => {
            let wanted = json!({"genome": provenance(&inputs[0])?, "pairs": provenance(&inputs[1])?});
            let path = path.expect("a place in the study's folder");
            if path.exists() {
                let dataset = Dataset::open(&path)?;
                same(&path, dataset.info()["inputs"] == wanted)?;
                return Ok(Data::Pairs(dataset));
            }
            keep_or_hold(prepared(&inputs[0], &inputs[1], wanted)?, &path, keep)?
        }
        SourceKind::Planted => {
            let planted = source.planted.as_ref().expect("a planted source");
            let contents = planted_contents(name, planted)?;
            let path = path.expect("a place in the study's folder");
            if path.exists() {
                let dataset = Dataset::open(&path)?;
                same(&path, dataset.fingerprint() == contents.into_dataset()?.fingerprint())?;
                return Ok(Data::Pairs(dataset));
            }
            keep_or_hold(contents, &path, keep)?
        }
    })
}

/// Error for data that an earlier start made from something else.
fn same(path: &Path, same: bool) -> Result<()> {
    if same {
        return Ok(());
    }
    let message = "was made from other inputs than the study names now: put the old ones back, or begin another study \
                   with --out";
    Err(Error::input(path, None, message))
}

fn keep_or_hold(contents: Contents, path: &Path, keep: bool) -> Result<Data> {
    if !keep {
        return Ok(Data::Pairs(contents.into_dataset()?.called(path)));
    }
    let folder = path.parent().expect("a folder of its own");
    std::fs::create_dir_all(folder).map_err(Error::io(folder))?;
    contents.write(path)?;
    Ok(Data::Pairs(Dataset::open(path)?))
}

fn prepared(genome: &Path, pairs: &Path, inputs: Value) -> Result<Contents> {
    let pairs = pairs::read(pairs, &PairsOptions::default())?;
    let wanted: HashSet<String> = pairs.table.contigs.iter().cloned().collect();
    let options = PrepareOptions::default();
    let (mut contents, notes) = prepare::from_genome(pairs, &Genome::open(genome, Some(&wanted))?, &options)?;
    contents.source = json!({
        "program": concat!("epi-engine ", env!("CARGO_PKG_VERSION")),
        "command": "study",
        "inputs": inputs,
        "windows": {
            "enhancer": options.enhancer_length,
            "promoter": options.promoter_length,
            "flank": options.flank,
            "start": "(start + end)/2 - length/2",
        },
        "warnings": notes.to_json(),
    });
    Ok(contents)
}

fn planted_contents(name: &str, planted: &Planted) -> Result<Contents> {
    let options = SynthOptions {
        level: planted.level.parse()?,
        samples: [planted.train, planted.validation, planted.test],
        lengths: [planted.length; 2],
        seed: planted.seed,
        ..SynthOptions::default()
    };
    let mut contents = synth::generate(&options, &meme::built_in(), Background::Windows(&demo()?))
        .map_err(|e| Error::config(format!("data.{name}.planted"), e.to_string()))?;
    contents.source["inputs"] = json!({});
    Ok(contents)
}
