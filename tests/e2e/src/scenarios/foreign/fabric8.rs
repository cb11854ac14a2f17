//! fabric8's kubernetes-client, whose watches are WebSockets, from Maven into the user's cache.

use std::path::{Path, PathBuf};

use tokio::process::Command;

use super::{Skip, made, step};

const LIBRARIES: &str = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies";

/// Runs it. [`Skip`] says that Java, Maven or the libraries cannot be had here.
pub(super) async fn command() -> anyhow::Result<Command> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("java");
    let place = environment(&sources).await?;
    let mut command = Command::new("java");
    command
        .arg("-cp")
        .arg(format!("{0}:{0}/lib/*", place.display()))
        .arg("Client");
    Ok(command)
}

/// Where the program and its libraries are. Both are made again when either of their sources has changed.
async fn environment(sources: &Path) -> anyhow::Result<PathBuf> {
    let cache = crate::tools::cache().map_err(Skip)?;
    let (project, program) = (sources.join("pom.xml"), sources.join("Client.java"));
    let wanted = std::fs::read_to_string(&project)? + &std::fs::read_to_string(&program)?;
    let (place, stamp) = (cache.join("java"), cache.join("java/sources.stamp"));
    if std::fs::read_to_string(&stamp).is_ok_and(|made| made == wanted) {
        return Ok(place);
    }
    step("fetching fabric8's client (two minutes the first time)");
    if place.exists() {
        std::fs::remove_dir_all(&place)?;
    }
    let mut fetch = Command::new("mvn");
    fetch
        .args(["--quiet", "--batch-mode", "--file"])
        .arg(project)
        .arg(LIBRARIES)
        .arg(format!("-DoutputDirectory={}", place.join("lib").display()));
    made(&mut fetch).await?;
    let mut compile = Command::new("javac");
    compile
        .arg("-cp")
        .arg(format!("{}/lib/*", place.display()))
        .arg("-d")
        .arg(&place)
        .arg(program);
    made(&mut compile).await?;
    std::fs::write(stamp, wanted)?;
    Ok(place)
}
