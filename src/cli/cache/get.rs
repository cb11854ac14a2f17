//! `edgehold cache get`: objects as this node's clients would be told them while the cloud is away.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::SystemTime;

use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::admin::objects::{CachedObject, CachedObjects};
use crate::cli::ask::{Asker, WhereArgs};
use crate::cli::columns::table;
use crate::cli::exit::{Exit, answered, complain};
use crate::runtime::clock;

use super::age::{self, UNKNOWN};
use super::pods;

const PODS: &str = "pods";

/// What kubectl calls them for short.
const SHORT: [(&str, &str); 8] = [
    ("cm", "configmaps"),
    ("ds", "daemonsets"),
    ("ep", "endpoints"),
    ("no", "nodes"),
    ("ns", "namespaces"),
    ("po", PODS),
    ("sa", "serviceaccounts"),
    ("svc", "services"),
];

/// The arguments of `cache get`.
#[derive(Debug, Args)]
pub(super) struct GetArgs {
    #[command(flatten)]
    at: WhereArgs,
    /// What, as pods, configmaps or deployments.apps
    #[arg(default_value = PODS)]
    resource: String,
    /// One object; without it all
    name: Option<String>,
    /// The namespace; without it all
    #[arg(short, long, conflicts_with = "all_namespaces")]
    namespace: Option<String>,
    /// All namespaces, as without --namespace
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Whose: a common name, or an OWNER of `cache ls`. Without it pods are kubelet's, and all else is anybody's
    #[arg(long)]
    client: Option<String>,
    /// Pods of every client, not only kubelet's
    #[arg(long, conflicts_with = "client")]
    all_clients: bool,
    /// Show the content of Secrets, and of what is like them, in JSON and YAML; over a Unix socket only
    #[arg(long)]
    show_secrets: bool,
    /// How to show it
    #[arg(short, long, value_enum, default_value_t = Form::Table)]
    output: Form,
}

/// How objects are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// For people.
    Table,
    /// With whose it is, its version and form, and when it was last known to be current.
    Wide,
    /// The objects, as far as they can be decoded.
    Json,
    /// The same.
    Yaml,
}

pub(super) fn run(args: &GetArgs, out: &mut dyn Write, err: &mut dyn Write) -> Exit {
    let asker = match Asker::new(&args.at, err) {
        Ok(asker) => asker,
        Err(exit) => return exit,
    };
    match found(&asker, args, err) {
        Ok(found) => show(found, args, out, err),
        Err(exit) => exit,
    }
}

/// All that there is of what is asked for.
fn found(asker: &Asker, args: &GetArgs, err: &mut dyn Write) -> Result<CachedObjects, Exit> {
    let found = all(asker, args, &args.resource, err)?;
    if !found.kept_resources.is_empty()
        && let Some(meant) = meant(&args.resource, &found.kept_resources)
    {
        return all(asker, args, meant, err);
    }
    Ok(found)
}

/// Part after part.
fn all(asker: &Asker, args: &GetArgs, resource: &str, err: &mut dyn Write) -> Result<CachedObjects, Exit> {
    let mut after = None;
    let mut whole: Option<CachedObjects> = None;
    loop {
        let query = query(args, resource, after.as_deref());
        let (_, part) = asker.heard::<CachedObjects>(&format!("/cache/objects?{query}"), err)?;
        let is_last = part.next.is_none() || part.next == after;
        after.clone_from(&part.next);
        match &mut whole {
            Some(whole) => {
                whole.items.extend(part.items);
                whole.incomplete |= part.incomplete;
            }
            None => whole = Some(part),
        }
        if let Some(mut whole) = whole.take_if(|_| is_last) {
            whole.next = None;
            return Ok(whole);
        }
    }
}

fn query(args: &GetArgs, resource: &str, after: Option<&str>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair("resource", resource);
    let parameters = [
        ("namespace", args.namespace.as_deref()),
        ("name", args.name.as_deref()),
        ("client", args.client.as_deref()),
        ("after", after),
        ("secrets", args.show_secrets.then_some("true")),
    ];
    for (key, value) in parameters {
        if let Some(value) = value {
            query.append_pair(key, value);
        }
    }
    query.finish()
}

/// Which of the resources that are kept is meant by a short name or a singular; `None` if the word itself is one, or none is.
fn meant<'k>(word: &str, kept: &'k [String]) -> Option<&'k str> {
    let (word, group) = match word.split_once('.') {
        Some((word, group)) => (word, Some(group)),
        None => (word, None),
    };
    let short = SHORT.into_iter().find(|(short, _)| *short == word);
    let plurals = [
        short.map_or_else(|| format!("{word}s"), |(_, plural)| plural.to_owned()),
        format!("{word}es"),
        format!("{}ies", word.strip_suffix('y').unwrap_or(word)),
    ];
    kept.iter().map(String::as_str).find(|kept| {
        let (plural, of) = kept.split_once('.').unwrap_or((kept, ""));
        plurals.iter().any(|guess| guess == plural) && group.is_none_or(|group| group == of)
    })
}

fn show(mut found: CachedObjects, args: &GetArgs, out: &mut dyn Write, err: &mut dyn Write) -> Exit {
    if args.client.is_none() && !args.all_clients {
        only_kubelets_pods(&mut found.items);
    }
    if found.incomplete {
        complain(
            err,
            "edgehold: the disk does not answer: this is not all that is kept",
        );
    }
    if found.items.is_empty() {
        let asked = args.name.as_deref().unwrap_or(&args.resource);
        let there_is = match found.kept_resources.as_slice() {
            [] => String::new(),
            kept => format!("; there are {}", kept.join(", ")),
        };
        complain(err, &format!("edgehold: nothing is kept of {asked}{there_is}"));
        return Exit::Failed;
    }
    let is_table = matches!(args.output, Form::Table | Form::Wide);
    let count = |is_one: fn(&CachedObject) -> bool| found.items.iter().filter(|item| is_one(item)).count();
    for (count, what) in [
        (
            count(|item| item.hidden),
            "without their content; --show-secrets shows it",
        ),
        (
            count(|item| item.partial),
            "in protobuf, of which not all could be decoded",
        ),
    ] {
        if count > 0 && !is_table {
            complain(err, &format!("edgehold: {count} are shown {what}"));
        }
    }
    let text = match args.output {
        Form::Table | Form::Wide => Ok(columns(&found.items, args.output, clock::wall())),
        Form::Json => serde_json::to_string_pretty(&found).map_err(|error| error.to_string()),
        Form::Yaml => crate::config::yaml(&found),
    };
    match text {
        Ok(text) => answered(writeln!(out, "{}", text.trim_end())),
        Err(error) => {
            complain(err, &format!("edgehold: {error}"));
            Exit::Failed
        }
    }
}

/// The pods of this node are those that kubelet knows, if it does.
fn only_kubelets_pods(items: &mut Vec<CachedObject>) {
    let is_kubelets = |item: &CachedObject| {
        let user = item.client.split_once(':').map_or("", |(_, user)| user);
        user.starts_with("system:node:")
    };
    if items
        .iter()
        .any(|item| item.resource == PODS && is_kubelets(item))
    {
        items.retain(|item| item.resource != PODS || is_kubelets(item));
    }
}

/// One row for each object, whoever knows it so; with a column for the clients if not all know the same.
fn columns(items: &[CachedObject], form: Form, now: SystemTime) -> String {
    let is_pods = items.iter().all(|item| item.resource == PODS);
    let is_one_resource = items.windows(2).all(|pair| match pair {
        [one, other] => one.resource == other.resource,
        _ => true,
    });
    let mut header = match is_pods {
        true => vec!["NAMESPACE", "NAME", "READY", "STATUS", "RESTARTS", "AGE"],
        false => vec!["NAMESPACE", "NAME", "AGE", "VERSION", "FORM", "BYTES"],
    };
    if form == Form::Wide {
        header.extend(match is_pods {
            true => ["VERSION", "FORM", "AS OF"].as_slice(),
            false => ["AS OF"].as_slice(),
        });
    }
    let mut rows: BTreeMap<Vec<String>, Vec<&str>> = BTreeMap::new();
    for item in items {
        let mut row = match is_pods {
            true => pod(item, now),
            false => other(item, is_one_resource, now),
        };
        if form == Form::Wide {
            if is_pods {
                row.extend([version(item), said_form(item)]);
            }
            row.push(item.validated.clone().unwrap_or_else(|| UNKNOWN.to_owned()));
        }
        rows.entry(row).or_default().push(short_client(&item.client));
    }
    let clients = |clients: &Vec<&str>| clients.join(", ");
    let first = rows.values().next().map(clients);
    let are_told = form == Form::Wide || rows.values().any(|of_row| Some(clients(of_row)) != first);
    if are_told {
        header.push("CLIENT");
    }
    let rows = rows.into_iter().map(|(mut row, of_row)| {
        if are_told {
            row.push(clients(&of_row));
        }
        row
    });
    table(&header, rows)
}

fn pod(item: &CachedObject, now: SystemTime) -> Vec<String> {
    let [ready, status, restarts] = match (&item.object, &item.form) {
        (Some(object), _) => pods::cells(object, now),
        (None, Some(_)) => [UNKNOWN, UNKNOWN, UNKNOWN].map(str::to_owned),
        (None, None) => [UNKNOWN, "unclear", UNKNOWN].map(str::to_owned),
    };
    let namespace = item.namespace.clone().unwrap_or_default();
    vec![
        namespace,
        item.name.clone(),
        ready,
        status,
        restarts,
        created(item, now),
    ]
}

fn other(item: &CachedObject, is_one_resource: bool, now: SystemTime) -> Vec<String> {
    let name = match is_one_resource {
        true => item.name.clone(),
        false => format!("{}/{}", item.resource, item.name),
    };
    let bytes = item
        .bytes
        .map_or_else(|| UNKNOWN.to_owned(), |bytes| bytes.to_string());
    let namespace = item.namespace.clone().unwrap_or_default();
    vec![
        namespace,
        name,
        created(item, now),
        version(item),
        said_form(item),
        bytes,
    ]
}

fn created(item: &CachedObject, now: SystemTime) -> String {
    age::since(metadata(item, "creationTimestamp"), now)
}

fn version(item: &CachedObject) -> String {
    match metadata(item, "resourceVersion") {
        "" => UNKNOWN.to_owned(),
        version => version.to_owned(),
    }
}

fn said_form(item: &CachedObject) -> String {
    item.form.clone().unwrap_or_else(|| "unclear".to_owned())
}

fn metadata<'i>(item: &'i CachedObject, field: &str) -> &'i str {
    let metadata = item.object.as_ref().and_then(|object| object.get("metadata"));
    let value = metadata.and_then(|metadata| metadata.get(field));
    value.and_then(Value::as_str).unwrap_or_default()
}

/// A certificate without its groups: they are in `cache ls`.
fn short_client(client: &str) -> &str {
    match client.strip_prefix("cn:") {
        Some(name) => name.split(",o=").next().unwrap_or(name),
        None => client,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn item(client: &str, resource: &str, name: &str, object: Option<Value>) -> CachedObject {
        CachedObject {
            client: client.to_owned(),
            resource: resource.to_owned(),
            namespace: Some("shop".to_owned()),
            name: name.to_owned(),
            form: object.as_ref().map(|_| "json".to_owned()),
            bytes: object.as_ref().map(|_| 7),
            validated: None,
            object,
            partial: false,
            hidden: false,
        }
    }

    fn object(version: &str) -> Option<Value> {
        Some(json!({"metadata": {"resourceVersion": version, "creationTimestamp": "1970-01-01T00:00:00Z"}}))
    }

    const NODE: &str = "cn:system:node:edge-1,o=system:nodes";

    fn shown(items: &[CachedObject]) -> Vec<String> {
        let text = columns(items, Form::Table, SystemTime::UNIX_EPOCH);
        text.lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect()
    }

    #[test]
    fn who_knows_an_object_is_said_where_not_all_know_the_same() {
        let same = [
            item(NODE, "configmaps", "a", object("5")),
            item("cn:b", "configmaps", "a", object("5")),
        ];
        assert_eq!(
            shown(&same),
            ["NAMESPACE NAME AGE VERSION FORM BYTES", "shop a 0s 5 json 7"]
        );
        let other = [
            item(NODE, "configmaps", "a", object("5")),
            item("cn:b", "configmaps", "a", object("4")),
            item("cn:b", "configmaps", "c", None),
        ];
        assert_eq!(
            shown(&other),
            [
                "NAMESPACE NAME AGE VERSION FORM BYTES CLIENT",
                "shop a 0s 4 json 7 b",
                "shop a 0s 5 json 7 system:node:edge-1",
                "shop c ? ? unclear ? b",
            ]
        );
    }

    #[test]
    fn the_pods_of_this_node_are_kubelets() {
        let mut items = vec![
            item("cn:operator", "pods", "far", object("5")),
            item(NODE, "pods", "near", object("5")),
        ];
        only_kubelets_pods(&mut items);
        assert_eq!(items.iter().map(|item| &*item.name).collect::<Vec<_>>(), ["near"]);
        let mut without = vec![item("cn:operator", "pods", "far", object("5"))];
        only_kubelets_pods(&mut without);
        assert_eq!(without.len(), 1);
        assert_eq!(
            shown(&items),
            ["NAMESPACE NAME READY STATUS RESTARTS AGE", "shop near ? ? ? 0s"]
        );
    }

    #[test]
    fn a_short_name_means_what_is_kept_and_nothing_else() {
        let kept = ["configmaps", "ingresses.networking.k8s.io", "pods"].map(str::to_owned);
        for (word, expected) in [
            ("po", Some("pods")),
            ("pod", Some("pods")),
            ("ingress", Some("ingresses.networking.k8s.io")),
            ("ingress.networking.k8s.io", Some("ingresses.networking.k8s.io")),
            ("ingress.extensions", None),
            ("svc", None),
            ("pods", None),
        ] {
            assert_eq!(meant(word, &kept), expected, "{word}");
        }
    }
}
