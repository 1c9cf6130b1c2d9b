//! Manual pages and shell completions, written by the programs themselves: what they say of their
//! flags is what the programs take. For packages (`scripts/package.sh`).

use std::env::args_os;
use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;

/// Shells that there are completions for.
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

/// What a program that was started with nothing but `--generate DIR` ends with: it wrote its pages and
/// completions there. `None` when it is to do something else.
#[must_use]
pub fn generate(program: impl FnOnce() -> Command, section: &str) -> Option<ExitCode> {
    let args: Vec<_> = args_os().skip(1).collect();
    let [flag, dir] = args.as_slice() else {
        return None;
    };
    if flag != "--generate" {
        return None;
    }
    Some(match write(program(), section, Path::new(dir)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error}", Path::new(dir).display());
            ExitCode::FAILURE
        }
    })
}

/// Writes the pages of a program, and of each of its commands, into `man` below a directory, and its
/// completions into `completions`. `section` is that of the manual: 1 for commands, 8 for what
/// administrators run.
///
/// # Errors
/// When they cannot be written.
pub fn write(program: Command, section: &str, dir: &Path) -> io::Result<()> {
    let (man, completions) = (dir.join("man"), dir.join("completions"));
    fs::create_dir_all(&man)?;
    fs::create_dir_all(&completions)?;
    let name = program.get_name().to_owned();
    let mut program = program;
    for shell in SHELLS {
        clap_complete::generate_to(shell, &mut program, &name, &completions)?;
    }
    program.build();
    page(&program, &name, section, &man)?;
    for command in program.get_subcommands() {
        if command.get_name() != "help" && !command.is_hide_set() {
            page(
                command,
                &format!("{name}-{}", command.get_name()),
                section,
                &man,
            )?;
        }
    }
    Ok(())
}

fn page(command: &Command, name: &str, section: &str, dir: &Path) -> io::Result<()> {
    let command = command.clone().display_name(name.to_owned());
    let mut text = Vec::new();
    Man::new(command).section(section).render(&mut text)?;
    fs::write(dir.join(format!("{name}.{section}")), text)
}

#[cfg(test)]
mod tests {
    use clap::Arg;

    use super::*;

    #[test]
    fn each_command_has_a_page_and_each_shell_completions() {
        let dir = tempfile::tempdir().unwrap();
        let program = Command::new("files").about("Keeps files").subcommands([
            Command::new("show")
                .about("Shows one")
                .arg(Arg::new("deep").long("deep")),
            Command::new("secret").hide(true),
        ]);
        write(program, "1", dir.path()).unwrap();
        let read = |path: &str| fs::read_to_string(dir.path().join(path)).unwrap();
        assert!(read("man/files.1").contains("Keeps files"));
        let page = read("man/files-show.1");
        assert!(
            page.contains("Shows one") && page.contains("deep"),
            "{page}"
        );
        assert!(!dir.path().join("man/files-secret.1").exists());
        for file in ["files.bash", "_files", "files.fish"] {
            assert!(
                read(&format!("completions/{file}")).contains("show"),
                "{file}"
            );
        }
    }
}
