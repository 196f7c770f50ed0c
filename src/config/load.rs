//! From a preset's name or a file, plus `--set key=value`, to a checked configuration.

use std::path::Path;

use super::Config;
use crate::error::{Error, Result};

/// The presets compiled into the program: name and TOML.
pub const PRESETS: &[(&str, &str)] = &[
    ("demo", include_str!("../../presets/demo.toml")),
    ("eplae", include_str!("../../presets/eplae.toml")),
    ("eplae-two-stage", include_str!("../../presets/eplae-two-stage.toml")),
    ("eplae-vae", include_str!("../../presets/eplae-vae.toml")),
    ("epsat", include_str!("../../presets/epsat.toml")),
    ("epsat-paper", include_str!("../../presets/epsat-paper.toml")),
    ("planted", include_str!("../../presets/planted.toml")),
    ("speid", include_str!("../../presets/speid.toml")),
];

/// The text of a preset; the error lists those there are.
pub fn preset(name: &str) -> Result<&'static str> {
    PRESETS.iter().find(|(n, _)| *n == name).map(|(_, text)| *text).ok_or_else(|| {
        let names: Vec<_> = PRESETS.iter().map(|(n, _)| *n).collect();
        Error::config("--preset", format!("no preset or file called `{name}`; presets: {}", names.join(", ")))
    })
}

/// Reads a preset (by name) or a TOML file (by path), applies `key=value` settings in order, and validates.
pub fn load(name_or_path: &str, settings: &[String]) -> Result<Config> {
    let path = Path::new(name_or_path);
    let text = if name_or_path.ends_with(".toml") || path.is_file() {
        std::fs::read_to_string(path).map_err(Error::io(path))?
    } else {
        preset(name_or_path)?.to_string()
    };
    parse(&text, path, settings)
}

fn parse(text: &str, path: &Path, settings: &[String]) -> Result<Config> {
    let invalid = |e: toml::de::Error| {
        let line = e.span().map(|s| text[..s.start.min(text.len())].matches('\n').count() as u64 + 1);
        Error::input(path, line, e.message().to_string())
    };
    let mut table: toml::Table = text.parse().map_err(invalid)?;
    // Without settings the text itself is parsed, so that errors carry its line.
    let config: Config = if settings.is_empty() {
        toml::from_str(text).map_err(invalid)?
    } else {
        for setting in settings {
            apply(&mut table, setting)?;
        }
        toml::Value::Table(table).try_into().map_err(|e: toml::de::Error| {
            Error::config(format!("--set {}", settings.join(" --set ")), e.message().to_string())
        })?
    };
    config.validate()?;
    Ok(config)
}

fn apply(table: &mut toml::Table, setting: &str) -> Result<()> {
    let (key, text) = setting
        .split_once('=')
        .ok_or_else(|| Error::config("--set", format!("`{setting}`: expected key=value, e.g. train.lr=0.001")))?;
    let value = format!("v = {text}")
        .parse::<toml::Table>()
        .ok()
        .and_then(|mut t| t.remove("v"))
        .unwrap_or_else(|| toml::Value::String(text.to_string()));
    let Some((section, name)) = key.trim().split_once('.') else {
        return Err(Error::config("--set", format!("`{key}`: expected section.key, e.g. train.lr")));
    };
    let entry = table.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
    let section = entry.as_table_mut().ok_or_else(|| Error::config("--set", format!("`{section}` is no section")))?;
    // `train.lr=1` means 1.0: TOML keeps integers and floats apart, people do not.
    let value = match (section.get(name), value) {
        (Some(toml::Value::Float(_)), toml::Value::Integer(i)) => toml::Value::Float(i as f64),
        (_, value) => value,
    };
    section.insert(name.to_string(), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_is_valid() {
        for (name, _) in PRESETS {
            let config = load(name, &[]).unwrap_or_else(|e| panic!("{name}: {e}"));
            let again: Config = toml::from_str(&config.to_toml()).unwrap();
            assert_eq!(again, config, "{name} does not survive --print-config");
        }
    }

    #[test]
    fn settings_override_and_unknown_keys_are_named() {
        let config = load("epsat", &["train.lr=1".into(), "model.heads=3".into(), "split.kind=random".into()]).unwrap();
        assert_eq!((config.train.lr, config.split.kind.as_str()), (1.0, "random"));
        let error = load("epsat", &["train.learning=1".into()]).unwrap_err().to_string();
        assert!(error.contains("learning") && error.contains("lr"), "{error}");
        assert!(load("nonsense", &[]).unwrap_err().to_string().contains("epsat-paper"));
    }

    #[test]
    fn errors_in_a_file_name_its_line() {
        let error =
            parse("[model]\nname = \"epsat\"\nkernls = 3\n", Path::new("my.toml"), &[]).unwrap_err().to_string();
        assert!(error.contains("my.toml") && error.contains("kernls"), "{error}");
    }
}
