//! `edgehold cache`: what this node knows while the cloud is away.

mod age;
mod get;
mod pods;

use std::io::Write;

use clap::{Args, Subcommand};

use crate::admin::status::CacheListing;

use super::ask::{AskArgs, Asker};
use super::columns::table;
use super::exit::Exit;

/// The arguments of `cache`.
#[derive(Debug, Args)]
pub struct CacheArgs {
    #[command(subcommand)]
    command: CacheCommand,
}

#[derive(Debug, Subcommand)]
enum CacheCommand {
    /// List what this node knows while the cloud is away: whose it is, what, and since when
    Ls(AskArgs),
    /// Show the objects that this node knows while the cloud is away: its pods, or what is named
    Get(get::GetArgs),
}

/// Does what `args` ask for.
pub(super) fn run(args: &CacheArgs, out: &mut dyn Write, err: &mut dyn Write) -> Exit {
    match &args.command {
        CacheCommand::Ls(ask) => match Asker::new(&ask.at, err) {
            Ok(asker) => asker.told::<CacheListing>("/cache", ask.output, listing, out, err),
            Err(exit) => exit,
        },
        CacheCommand::Get(args) => get::run(args, out, err),
    }
}

/// The whole of `edgehold cache ls`.
pub(super) fn listing(listing: &CacheListing) -> String {
    let rows = listing.items.iter().map(|item| {
        let namespace = match (&item.resource, &item.namespace) {
            (Some(_), None) => "(all)".to_owned(),
            (_, namespace) => namespace.clone().unwrap_or_default(),
        };
        [
            item.owner.clone(),
            item.resource.clone().unwrap_or_else(|| item.kind.clone()),
            namespace,
            item.selector.clone().unwrap_or_default(),
            item.form.clone().unwrap_or_default(),
            item.bytes.to_string(),
            item.modified.clone(),
        ]
    });
    table(
        &[
            "OWNER",
            "RESOURCE",
            "NAMESPACE",
            "SELECTOR",
            "FORM",
            "BYTES",
            "CHANGED",
        ],
        rows,
    )
}
