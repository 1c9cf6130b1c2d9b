//! `razorfs set STORE KEY=VALUE...`: changes settings of a dataset.

use clap::Args;
use clap::builder::NonEmptyStringValueParser as Name;
use razorfs::control::api::ChangeDataset;
use razorfs::engine::Settings;

use crate::store::StoreArgs;

type Error = Box<dyn std::error::Error>;

/// Changes settings of a dataset. They hold for what is written from then on.
#[derive(Debug, Args)]
pub struct SetArgs {
    /// The dataset.
    #[arg(long, value_name = "NAME", default_value = "main", value_parser = Name::new())]
    dataset: String,
    #[command(flatten)]
    store: StoreArgs,
    /// What to set: compression=off|lz4|zstd[:LEVEL], dedup=off|on|verify.
    #[arg(value_name = "KEY=VALUE", required = true)]
    settings: Vec<String>,
}

/// Changes them: durable when this returns.
///
/// # Errors
/// When a setting or a dataset is not known, or the store cannot be written to.
pub fn run(args: &SetArgs) -> Result<(), Error> {
    let settings = parse(&args.settings)?;
    let change = ChangeDataset {
        name: None,
        compression: settings.compression.map(|codec| codec.to_string()),
        dedup: settings.dedup.map(|dedup| dedup.to_string()),
    };
    let changed = args.store.with(false, |session| {
        session.change_dataset(&args.dataset, &change)
    })?;
    args.store.tell(&changed)
}

fn parse(given: &[String]) -> Result<Settings, String> {
    let mut settings = Settings::default();
    for one in given {
        let (key, value) = one
            .split_once('=')
            .ok_or_else(|| format!("'{one}' is not KEY=VALUE"))?;
        match key {
            "compression" => {
                let value = value.parse().map_err(|error| format!("{key}: {error}"))?;
                settings.compression = Some(value);
            }
            "dedup" => {
                let value = value.parse().map_err(|error| format!("{key}: {error}"))?;
                settings.dedup = Some(value);
            }
            _ => {
                return Err(format!(
                    "there is no setting '{key}'; there are: compression, dedup"
                ));
            }
        }
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(given: &[&str]) -> Result<Settings, String> {
        parse(&given.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn settings_are_checked() {
        let given = ["compression=lz4", "dedup=verify", "compression=zstd:9"];
        let set = parsed(&given).unwrap();
        assert_eq!(set.compression, "zstd:9".parse().ok());
        assert_eq!(set.dedup, "verify".parse().ok());
        for (given, word) in [
            ("compression", "KEY=VALUE"),
            ("compression=gzip", "off, lz4, zstd"),
            ("compression=zstd:99", "1 to 19"),
            ("dedup=yes", "off, on, and verify"),
            ("speed=9", "there are: compression, dedup"),
        ] {
            let error = parsed(&[given]).unwrap_err();
            assert!(error.contains(word), "{given}: {error}");
        }
    }
}
