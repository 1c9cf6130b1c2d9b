//! SQLite, by its command-line shell: a transaction a step, in each of the journal modes that
//! people use, set up so that a commit is durable.

use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::{App, Done, Found, Work, failed};

/// Rows kept: older ones are deleted.
const ROWS: u64 = 60;
const TEXT_MAX: usize = 3000;

pub(super) struct Sqlite {
    name: &'static str,
    pragmas: &'static str,
}

impl Sqlite {
    pub(super) const WAL: Sqlite = Sqlite {
        name: "sqlite-wal",
        pragmas: "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=100;",
    };

    /// EXTRA: with FULL the removal of the journal, which is the commit, may come undone.
    pub(super) const ROLLBACK: Sqlite = Sqlite {
        name: "sqlite-rollback",
        pragmas: "PRAGMA journal_mode=DELETE; PRAGMA synchronous=EXTRA;",
    };

    fn shell(&self, dir: &Path) -> Command {
        let mut command = Command::new("sqlite3");
        command.arg("-batch").arg("-bail").arg(dir.join("db"));
        command
    }

    /// What a script prints.
    fn ask(&self, dir: &Path, script: &str) -> Found<String> {
        let output = self.shell(dir).arg(script).output();
        let output = output.map_err(failed("sqlite3"))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(format!("sqlite3 {script}: {said}"))
    }
}

/// A shell that ends with us.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl App for Sqlite {
    fn name(&self) -> &'static str {
        self.name
    }

    fn run(&self, work: &Work<'_>, from: u64, done: Done<'_>) -> io::Result<()> {
        let shell = self
            .shell(work.dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut shell = Running(shell);
        let gone = || io::Error::other("sqlite3 ended");
        let mut orders = shell.0.stdin.take().ok_or_else(gone)?;
        let mut answers = BufReader::new(shell.0.stdout.take().ok_or_else(gone)?).lines();
        writeln!(
            orders,
            "{} CREATE TABLE IF NOT EXISTS entries(step INTEGER PRIMARY KEY, text TEXT, more TEXT);
             CREATE INDEX IF NOT EXISTS texts ON entries(text);
             CREATE TABLE IF NOT EXISTS last(one INTEGER PRIMARY KEY, step INTEGER);",
            self.pragmas
        )?;
        for step in from + 1.. {
            let text = work.text(step, TEXT_MAX);
            let (touched, oldest) = (step - step % 7, step.saturating_sub(ROWS));
            writeln!(
                orders,
                "BEGIN;
                 INSERT INTO entries VALUES({step}, '{text}', '');
                 UPDATE entries SET more = '{step}' WHERE step = {touched};
                 DELETE FROM entries WHERE step <= {oldest};
                 INSERT OR REPLACE INTO last VALUES(1, {step});
                 COMMIT;
                 SELECT 'done {step}';"
            )?;
            let wanted = format!("done {step}");
            // What the pragmas say comes first.
            while answers.next().ok_or_else(gone)?? != wanted {}
            if done(step).is_break() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn check(&self, work: &Work<'_>) -> Found {
        if !work.dir.join("db").exists() {
            return Ok(0);
        }
        let sound = self.ask(work.dir, "PRAGMA integrity_check;")?;
        if sound.trim() != "ok" {
            return Err(format!("integrity_check: {sound}"));
        }
        let tables = self.ask(work.dir, "SELECT count(*) FROM sqlite_master;")?;
        // Two tables and an index, made one after the other.
        if tables.trim() != "3" {
            return Ok(0);
        }
        let last = self.ask(work.dir, "SELECT step FROM last;")?;
        let last: u64 = match last.trim() {
            "" => 0,
            number => number.parse().map_err(|_| format!("last is '{number}'"))?,
        };
        let rows = self.ask(
            work.dir,
            "SELECT step || ' ' || text || ' ' || more FROM entries ORDER BY step;",
        )?;
        let touched = |step: u64| match step % 7 {
            // By itself, and by each of the next six.
            0 => (step + 6).min(last).to_string(),
            _ => String::new(),
        };
        let row = |step| format!("{step} {} {}\n", work.text(step, TEXT_MAX), touched(step));
        let oldest = last.saturating_sub(ROWS) + 1;
        let wanted: String = (oldest..=last).map(row).collect();
        if rows == wanted {
            Ok(last)
        } else {
            Err(format!("the rows are not those of step {last}"))
        }
    }
}
