//! `razorfs project STORE DATASET [PATH]`: what a directory tree may take.

use std::fmt::Write as _;

use clap::Args;
use razorfs::control::api::{ChangeProject, Project};

use super::info::human;
use super::set::parse_limit;
use super::store::StoreArgs;

type Error = Box<dyn std::error::Error>;

/// Gives a directory tree to a project, and sets what the project may take.
///
/// What is made in a directory of a project belongs to it, and what belongs to another is neither
/// moved nor linked there: mv copies it. Guests see and change projects of their files with chattr
/// -p, lsattr -p and xfs_io; limits are set here only. When the project is over its limits already,
/// it just cannot grow.
#[derive(Debug, Args)]
pub struct ProjectArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// The dataset.
    dataset: String,
    /// A directory or file, from the dataset's root: it, and all that is below it, is given to the
    /// project.
    #[arg(requires = "id", conflicts_with = "list")]
    path: Option<String>,
    /// The project's number; 0 takes a tree from its project.
    #[arg(
        long,
        value_name = "N",
        required_unless_present = "list",
        conflicts_with = "list"
    )]
    id: Option<u32>,
    /// Bytes that its files may take (K, M, G, T for powers of 1024), or none.
    #[arg(long, value_name = "BYTES", value_parser = limit, conflicts_with = "list")]
    quota: Option<u64>,
    /// Inodes that it may have, or none.
    #[arg(long, value_name = "NUMBER", value_parser = limit, conflicts_with = "list")]
    quota_inodes: Option<u64>,
    /// Tell which projects there are, and what they have and may have.
    #[arg(long)]
    list: bool,
}

/// A limit, 0 for none.
fn limit(value: &str) -> Result<u64, String> {
    match value {
        "none" => Ok(0),
        _ => parse_limit(value),
    }
}

/// Does it.
///
/// # Errors
/// When the store cannot be reached or opened, or the path or the dataset is not there.
pub fn run(args: &ProjectArgs) -> Result<(), Error> {
    if let (Some(id), false) = (args.id, args.list) {
        let change = ChangeProject {
            dataset: args.dataset.clone(),
            id,
            path: args.path.clone(),
            quota_bytes: args.quota,
            quota_inodes: args.quota_inodes,
        };
        let project = args
            .store
            .with(false, |session| session.change_project(&change))?;
        return args.store.tell(&project);
    }
    let projects = args
        .store
        .with(true, |session| session.projects(&args.dataset))?;
    if args.store.is_json() {
        return args.store.tell(&projects);
    }
    crate::tell(&table(&projects));
    Ok(())
}

fn table(projects: &[Project]) -> String {
    let of = |limit: u64, shown: String| match limit {
        0 => "-".to_owned(),
        _ => shown,
    };
    let mut text = format!(
        "{:>10} {:>12} {:>12} {:>12} {:>12}\n",
        "PROJECT", "INODES", "QUOTA", "SPACE", "QUOTA"
    );
    for each in projects {
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{:>10} {:>12} {:>12} {:>12} {:>12}",
            each.id,
            each.inodes,
            of(each.quota_inodes, each.quota_inodes.to_string()),
            human(each.allocated_bytes),
            of(each.quota_bytes, human(each.quota_bytes)),
        );
    }
    text
}
