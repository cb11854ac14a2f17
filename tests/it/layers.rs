//! Which files import which: layers downwards only (ARCHITECTURE.md), and no circles.
//!
//! Read from the text: paths that begin with `crate`, `self`, `super` or a module of the file's own. What a module only passes
//! on (`use child::X`) is imported from the file that defines it. Not seen: tests, methods (an `impl` of another file's type),
//! macros, and what a module that is imported as a whole passes on.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// The layers that import others, with those.
const LAYERS: &str = "
wire: kube
view: kube
filter: kube wire
tls: runtime
identity: tls
store: runtime
cache: identity kube runtime store view wire
upstream: runtime tls
proxy: cache filter identity kube runtime store tls upstream view wire
node: runtime tls upstream
server: proxy runtime tls
config: node proxy tls upstream
setup: config node runtime store tls upstream
admin: app cache config kube proxy runtime server store tls upstream view wire
app: admin cache config filter identity node proxy runtime server store tls upstream
cli: admin app config node runtime setup tls upstream
";

/// Circles that are still there, one a line. A file that leaves one leaves the list; no file joins it.
const CIRCLES: &str = "
view/machine/detached view/machine/parked
wire/cbor wire/cbor/members wire/cbor/read wire/cbor/walk wire/object wire/status wire/watch
";

/// Files that import what the file above them defines, which has them as its modules: also a circle.
const UPWARDS: &str = "
cache: cache/answer cache/healing cache/inventory cache/missing cache/pods cache/recording cache/recording/lists cache/recording/receive cache/recording/refusals cache/removal cache/replies cache/views cache/watches cache/writes
cache/objects: cache/objects/bound cache/objects/marks cache/objects/unwritten cache/objects/versions
cache/replies: cache/replies/kept
cli: cli/check cli/completions cli/man
filter: filter/endpoints filter/rewriter filter/service
kube/media: kube/media/accept
setup/install: setup/install/checks setup/install/wanted
store: store/compact store/disk store/disk/files store/engine store/log store/opening store/quarantine store/quota store/recover store/shared store/snapshot store/staging store/state store/writer
store/disk: store/disk/counted store/disk/files store/disk/memory store/disk/moving store/disk/sealed
view/machine: view/machine/apply view/machine/commit view/machine/detached view/machine/parked
view/selector: view/selector/fields view/selector/labels view/selector/labels/parser
view/selector/labels: view/selector/labels/parser
wire: wire/list wire/object wire/plain wire/watch/frames
wire/cbor: wire/cbor/members wire/cbor/read wire/cbor/skip wire/cbor/walk
wire/collection: wire/collection/layout
wire/edit: wire/edit/cbor wire/edit/json wire/edit/protobuf
wire/json: wire/json/fields wire/json/members wire/json/walk
wire/list: wire/list/cbor wire/list/json wire/list/protobuf wire/list/splice
wire/plain: wire/plain/cbor wire/plain/protobuf
";

/// The imports of one file: absolute paths, each with the name that a `use` gives it.
type Imports = Vec<(String, String)>;

/// The files by module, as in `proxy::watch`.
struct Source(BTreeMap<String, Imports>);

impl Source {
    fn read() -> Self {
        let mut texts = BTreeMap::new();
        read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), "", &mut texts);
        for (module, text) in texts.clone() {
            let declared = text
                .split("#[cfg(test)]\n")
                .skip(1)
                .filter_map(|rest| rest.split_once(";\n"));
            for (_, test) in declared.filter_map(|(declared, _)| declared.rsplit_once("mod ")) {
                texts.retain(|other, _| !format!("{other}::").starts_with(&format!("{module}::{test}::")));
            }
        }
        let is_module = |path: &str| texts.contains_key(path);
        let files = texts
            .iter()
            .map(|(module, text)| (module.clone(), imports(module, text, &is_module)));
        Self(files.collect())
    }

    /// The module whose file has what a path names.
    fn owner(&self, path: &str) -> Option<String> {
        let mut module = path;
        while !self.0.contains_key(module) {
            module = module.rsplit_once("::")?.0;
        }
        let name = path[module.len()..].split("::").nth(1).unwrap_or_default();
        let passed_on = self.0[module]
            .iter()
            .find(|(_, known)| !name.is_empty() && known == name);
        match passed_on.filter(|(passed_on, _)| passed_on != path) {
            Some((passed_on, _)) => self.owner(passed_on),
            None => Some(module.to_owned()),
        }
    }

    /// Every import of one file by another.
    fn edges(&self) -> BTreeSet<(String, String)> {
        let paths = self
            .0
            .iter()
            .flat_map(|(from, all)| all.iter().map(move |(path, _)| (from, path)));
        let edges = paths.filter_map(|(from, path)| Some((from.clone(), self.owner(path)?)));
        edges.filter(|(from, to)| from != to).collect()
    }
}

fn read(dir: &Path, above: &str, into: &mut BTreeMap<String, String>) {
    for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        let module = format!("{above}{}", path.file_stem().unwrap().to_str().unwrap());
        if path.is_dir() {
            read(&path, &format!("{module}::"), into);
        } else if !["lib", "main"].contains(&module.as_str()) {
            into.insert(module, fs::read_to_string(&path).unwrap());
        }
    }
}

fn imports(module: &str, text: &str, is_module: &dyn Fn(&str) -> bool) -> Imports {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let code = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code = code.collect::<Vec<_>>().join(" ").replace("pub(in crate::", "(");
    let mut found = Imports::new();
    for statement in code.split(';') {
        let used = statement.rsplit_once("use ");
        let used = used.filter(|(_, tree)| absolute(module, tree, is_module).is_some());
        let (rest, tree) = used.unwrap_or((statement, ""));
        expand("", tree, &mut found);
        let words = rest.split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':');
        found.extend(words.map(|word| (word.to_owned(), String::new())));
    }
    let path = |(path, name): (String, String)| Some((absolute(module, &path, is_module)?, name));
    found.into_iter().filter_map(path).collect()
}

/// The paths that a `use` stands for, with their names.
fn expand(prefix: &str, tree: &str, found: &mut Imports) {
    let (mut depth, mut begin) = (0, 0);
    let Some((head, group)) = tree.split_once('{') else {
        let (path, name) = tree
            .split_once(" as ")
            .unwrap_or((tree, tree.rsplit("::").next().unwrap()));
        let path = format!("{prefix}{}", path.trim());
        return found.push((path.trim_end_matches("::self").to_owned(), name.trim().to_owned()));
    };
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            ',' | '}' if depth == 0 => {
                expand(&format!("{prefix}{}", head.trim()), &group[begin..at], found);
                begin = at + 1;
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
}

/// `None` if it is no path into the source.
fn absolute(module: &str, path: &str, is_module: &dyn Fn(&str) -> bool) -> Option<String> {
    let (first, rest) = path
        .split_once("::")
        .filter(|_| !path.ends_with("super") && !path.ends_with(':'))?;
    let mut above = module;
    let mut rest = match first {
        "crate" => return Some(rest.to_owned()),
        "self" => rest,
        "super" => path,
        child => return is_module(&format!("{module}::{child}")).then(|| format!("{module}::{path}")),
    };
    while let Some(further) = rest.strip_prefix("super::") {
        (above, rest) = (above.rsplit_once("::").map_or("", |(above, _)| above), further);
    }
    Some(format!("{above}::{rest}").trim_start_matches("::").to_owned())
}

/// The circles, each with its files in order.
fn circles(edges: &BTreeSet<(String, String)>) -> BTreeSet<Vec<&str>> {
    let mut imports = BTreeMap::<&str, Vec<&str>>::new();
    for (from, to) in edges {
        imports.entry(from).or_default().push(to);
    }
    let mut reached = BTreeMap::<&str, BTreeSet<&str>>::new();
    for start in imports.keys() {
        let (reached, mut next) = (reached.entry(start).or_default(), vec![*start]);
        while let Some(file) = next.pop() {
            let to = imports.get(file).into_iter().flatten();
            next.extend(to.filter(|to| reached.insert(to)));
        }
    }
    let is_back = |from: &str, to: &str| reached.get(to).is_some_and(|reached| reached.contains(from));
    let circles = reached
        .iter()
        .map(|(from, to)| to.iter().copied().filter(|to| is_back(from, to)));
    circles
        .map(Iterator::collect)
        .filter(|circle: &Vec<_>| !circle.is_empty())
        .collect()
}

/// One line for each first of the pairs, with all its seconds.
fn lines(pairs: impl Iterator<Item = (String, String)>) -> Vec<String> {
    let mut all = BTreeMap::<String, BTreeSet<String>>::new();
    for (one, other) in pairs {
        all.entry(one).or_default().insert(other);
    }
    let line = |(one, others)| format!("{one}: {}", Vec::from_iter(others).join(" "));
    all.into_iter().map(line).collect()
}

fn assert_listed(found: Vec<String>, listed: &str) {
    let found: BTreeSet<String> = found.into_iter().map(|line| line.replace("::", "/")).collect();
    let listed: BTreeSet<_> = listed.trim().lines().map(str::to_owned).collect();
    let (new, gone) = (&found - &listed, &listed - &found);
    assert!(
        new.is_empty() && gone.is_empty(),
        "found, but not listed: {new:#?}\nlisted, but not found: {gone:#?}"
    );
}

#[test]
fn layers_import_what_is_said_of_them() {
    let layer = |module: String| module.split("::").next().unwrap().to_owned();
    let edges = Source::read()
        .edges()
        .into_iter()
        .map(|(from, to)| (layer(from), layer(to)));
    assert_listed(lines(edges.filter(|(from, to)| from != to)), LAYERS);
}

#[test]
fn files_import_each_other_in_no_new_circle() {
    let edges = Source::read().edges();
    assert!(edges.len() > 500, "found only {} imports", edges.len());
    let is_up = |(from, to): &(String, String)| from.starts_with(&format!("{to}::"));
    let (up, edges): (BTreeSet<_>, _) = edges.into_iter().partition(is_up);
    assert_listed(
        circles(&edges).into_iter().map(|files| files.join(" ")).collect(),
        CIRCLES,
    );
    assert_listed(
        lines(up.into_iter().map(|(below, above)| (above, below))),
        UPWARDS,
    );
}

#[test]
fn the_check_sees_what_a_file_imports() {
    let is_module = |path: &str| path == "a::b::child";
    let seen = |text| {
        imports("a::b", text, &is_module)
            .into_iter()
            .map(|(path, _)| path)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        seen("use crate::{kube::{media::{self, Offer}, version}, wire,}; use child::X;"),
        [
            "kube::media",
            "kube::media::Offer",
            "kube::version",
            "wire",
            "a::b::child::X"
        ]
    );
    assert_eq!(
        seen("fn f(x: super::View) -> super::super::x::Y { child::f() }"),
        ["a::View", "x::Y", "a::b::child::f"]
    );
    assert_eq!(
        seen("// crate::a::B\npub(in super::super) struct A(serde::child::X);"),
        [""; 0]
    );
    let edges = ["a b", "b c", "c a", "c d", "e a"].map(|edge| edge.split_once(' ').unwrap());
    let edges = edges.map(|(from, to)| (from.to_owned(), to.to_owned())).into();
    assert_eq!(
        circles(&edges).into_iter().flatten().collect::<Vec<_>>(),
        ["a", "b", "c"]
    );
}
