//! The official Python client, in a virtual environment in the user's cache.

use std::path::{Path, PathBuf};

use tokio::process::Command;

use super::{Skip, made, step};

/// Runs it. [`Skip`] says that Python or its packages cannot be had here.
pub(super) async fn command() -> anyhow::Result<Command> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("python");
    let mut command = Command::new(environment(&sources).await?);
    command.arg(sources.join("client.py"));
    Ok(command)
}

/// The Python of the environment, which is made when it is not there or its requirements have changed.
async fn environment(sources: &Path) -> anyhow::Result<PathBuf> {
    let cache = crate::tools::cache().map_err(Skip)?;
    let wanted = std::fs::read_to_string(sources.join("requirements.txt"))?;
    let dir = cache.join("python");
    let (python, stamp) = (dir.join("bin/python"), dir.join("requirements.stamp"));
    if python.exists() && std::fs::read_to_string(&stamp).is_ok_and(|made| made == wanted) {
        return Ok(python);
    }
    step("making a Python environment (half a minute the first time)");
    let requirements = sources.join("requirements.txt").display().to_string();
    let (place, program) = (dir.display().to_string(), python.display().to_string());
    for (program, arguments) in [
        ("python3", vec!["-m", "venv", "--clear", &place]),
        (
            &*program,
            vec![
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--no-deps",
                "-r",
                &requirements,
            ],
        ),
    ] {
        made(Command::new(program).args(&arguments)).await?;
    }
    std::fs::write(stamp, wanted)?;
    Ok(python)
}
