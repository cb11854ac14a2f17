//! `examples/deploy`: manifests that an apiserver would take, configurations that `check` takes, and paths that agree.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use edgehold::config;
use edgehold::config::kubeconfig::{Authority, Kubeconfig};
use edgehold::setup::unit;
use k8s_openapi::api::admissionregistration::v1 as admission;
use k8s_openapi::api::{apps::v1 as apps, core::v1 as core, rbac::v1 as rbac};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/deploy")
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else {
            files.push(path);
        }
    }
    files
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(deploy().join(path)).unwrap()
}

fn documents(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap()
}

fn field<'v>(value: &'v Value, name: &str) -> &'v str {
    value[name].as_str().unwrap_or_default()
}

/// Whether everything in `given` is in `known` too: what a type does not know is lost on the way through it.
fn lost(given: &Value, known: &Value, at: &str, into: &mut Vec<String>) {
    match (given, known) {
        (Value::Object(given), Value::Object(known)) => {
            for (name, value) in given {
                match known.get(name) {
                    Some(known) => lost(value, known, &format!("{at}.{name}"), into),
                    None => into.push(format!("{at}.{name}")),
                }
            }
        }
        (Value::Array(given), Value::Array(known)) if given.len() == known.len() => {
            for (i, (given, known)) in given.iter().zip(known).enumerate() {
                lost(given, known, &format!("{at}[{i}]"), into);
            }
        }
        _ if given == known => {}
        _ => into.push(at.to_owned()),
    }
}

fn fits<T: DeserializeOwned + Serialize>(document: &Value) -> Vec<String> {
    let mut unknown = Vec::new();
    match serde_json::from_value::<T>(document.clone()) {
        Ok(typed) => lost(document, &serde_json::to_value(&typed).unwrap(), "", &mut unknown),
        Err(error) => unknown.push(error.to_string()),
    }
    unknown
}

/// What of a document Kubernetes would not take.
fn unknown(document: &Value) -> Vec<String> {
    match (field(document, "apiVersion"), field(document, "kind")) {
        ("v1", "Pod") => fits::<core::Pod>(document),
        ("v1", "Namespace") => fits::<core::Namespace>(document),
        ("v1", "ConfigMap") => fits::<core::ConfigMap>(document),
        ("v1", "ServiceAccount") => fits::<core::ServiceAccount>(document),
        ("apps/v1", "Deployment") => fits::<apps::Deployment>(document),
        ("apps/v1", "DaemonSet") => fits::<apps::DaemonSet>(document),
        ("rbac.authorization.k8s.io/v1", "Role") => fits::<rbac::Role>(document),
        ("rbac.authorization.k8s.io/v1", "ClusterRole") => fits::<rbac::ClusterRole>(document),
        ("rbac.authorization.k8s.io/v1", "RoleBinding") => fits::<rbac::RoleBinding>(document),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => fits::<rbac::ClusterRoleBinding>(document),
        ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy") => {
            fits::<admission::ValidatingAdmissionPolicy>(document)
        }
        ("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding") => {
            fits::<admission::ValidatingAdmissionPolicyBinding>(document)
        }
        // Checked by the tests below.
        ("kustomize.config.k8s.io/v1beta1", "Kustomization") | (config::API_VERSION, config::KIND) => {
            Vec::new()
        }
        (version, kind) => vec![format!("no test knows {version:?} {kind:?}")],
    }
}

#[test]
fn every_manifest_has_known_fields_only() {
    let manifests: Vec<PathBuf> = files_below(&deploy())
        .into_iter()
        .filter(|path| path.extension().is_some_and(|end| end == "yaml"))
        .collect();
    assert!(manifests.len() >= 8, "{manifests:?}");
    for path in manifests {
        let documents = documents(&fs::read_to_string(&path).unwrap());
        assert!(!documents.is_empty(), "{}", path.display());
        for document in documents {
            let patch = path.ends_with("overlays/edge/nodes.yaml");
            let wrong: Vec<String> = if patch { Vec::new() } else { unknown(&document) };
            assert!(wrong.is_empty(), "{}: {wrong:?}", path.display());
        }
    }
}

#[test]
fn an_unknown_field_would_be_noticed() {
    let mut pod = documents(&read("static-pod/edgehold.yaml")).remove(0);
    assert_eq!(unknown(&pod), Vec::<String>::new());
    pod["spec"]["containers"][0]["imagePullpolicy"] = "Always".into();
    assert_eq!(unknown(&pod), [".spec.containers[0].imagePullpolicy"]);
}

#[test]
fn every_configuration_passes_check() {
    for path in [
        "daemonset/base/config.yaml",
        "daemonset/overlays/edge/config.yaml",
        "../edge-node.yaml",
        "../minimal.yaml",
    ] {
        let loaded = config::load(&deploy().join(path));
        assert!(loaded.is_ok(), "{path}: {}", loaded.unwrap_err());
    }
}

#[test]
fn the_unit_is_the_one_that_install_writes() {
    let written = unit::text(Path::new("/usr/local/bin/edgehold"), &[]);
    assert_eq!(read("systemd/edgehold.service"), written);
}

#[test]
fn every_way_to_run_it_has_the_ceiling_of_the_unit() {
    let unit = unit::text(Path::new("/usr/local/bin/edgehold"), &[]);
    let max = unit
        .lines()
        .find_map(|line| line.strip_prefix("MemoryMax="))
        .unwrap();
    for path in ["static-pod/edgehold.yaml", "daemonset/base/daemonset.yaml"] {
        for document in documents(&read(path)) {
            let pod = document
                .pointer("/spec/template/spec")
                .unwrap_or(&document["spec"]);
            let limit = &pod["containers"][0]["resources"]["limits"]["memory"];
            assert_eq!(limit, &Value::from(format!("{max}i")), "{path}");
        }
    }
}

/// What the containers of a pod see of the host and of ConfigMaps: mount points, and whether they may write there.
fn mounts(pod: &Value) -> BTreeMap<PathBuf, bool> {
    let volumes: BTreeSet<&str> = pod["volumes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|volume| field(volume, "name"))
        .collect();
    let mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap().iter();
    mounts
        .map(|mount| {
            assert!(volumes.contains(field(mount, "name")), "{mount}");
            (
                field(mount, "mountPath").into(),
                mount["readOnly"] != Value::Bool(true),
            )
        })
        .collect()
}

#[test]
fn every_file_that_a_configuration_names_is_mounted_and_only_the_cache_can_be_written() {
    let static_pod = &documents(&read("static-pod/edgehold.yaml"))[0]["spec"];
    let daemon_set = &documents(&read("daemonset/base/daemonset.yaml"))[0]["spec"]["template"]["spec"];
    for (pod, config) in [
        (static_pod, "../edge-node.yaml"),
        (daemon_set, "daemonset/base/config.yaml"),
        (daemon_set, "daemonset/overlays/edge/config.yaml"),
    ] {
        let mounts = mounts(pod);
        let config = config::load(&deploy().join(config)).unwrap();
        let tls = &config.listen.tls;
        let mut files = vec![
            &tls.cert_file,
            &tls.key_file,
            &tls.client_ca_file,
            &config.upstream.ca_file,
        ];
        files.extend(
            config
                .clients
                .iter()
                .flat_map(|client| [&client.cert_file, &client.key_file]),
        );
        for file in files {
            assert!(
                mounts.keys().any(|mount| file.starts_with(mount)),
                "{} in {mounts:?}",
                file.display()
            );
        }
        let writable: Vec<&PathBuf> = mounts
            .iter()
            .filter(|(_, writable)| **writable)
            .map(|(mount, _)| mount)
            .collect();
        let socket = Path::new("/run/edgehold").to_owned();
        assert_eq!(writable, [&socket, &config.cache.path]);
        let container = &pod["containers"][0];
        assert_eq!(
            container["args"],
            serde_json::json!(["run", "--config", config::DEFAULT_PATH])
        );
        let port = config.listen.addresses[0].port();
        assert_eq!(container["livenessProbe"]["tcpSocket"]["port"], port);
        let image = field(container, "image").split(':').next().unwrap();
        assert_eq!(image, "edgehold");
    }
}

#[test]
fn kustomizations_name_files_that_are_there_and_this_version() {
    for dir in ["daemonset/base", "daemonset/overlays/edge"] {
        let kustomization = &documents(&read(format!("{dir}/kustomization.yaml")))[0];
        let mut named: Vec<String> = Vec::new();
        named.extend(
            kustomization["resources"]
                .as_array()
                .unwrap()
                .iter()
                .map(|one| one.as_str().unwrap().to_owned()),
        );
        let patches = kustomization["patches"].as_array().cloned().unwrap_or_default();
        named.extend(patches.iter().map(|patch| field(patch, "path").to_owned()));
        let generated = &kustomization["configMapGenerator"][0];
        assert_eq!(field(generated, "name"), "edgehold");
        named.extend(
            generated["files"]
                .as_array()
                .unwrap()
                .iter()
                .map(|one| one.as_str().unwrap().to_owned()),
        );
        for name in named {
            assert!(deploy().join(dir).join(&name).exists(), "{dir}: {name}");
        }
        assert_eq!(
            field(&kustomization["images"][0], "newTag"),
            env!("CARGO_PKG_VERSION")
        );
    }
    for pod in ["static-pod/edgehold.yaml", "csr/approver.yaml"] {
        assert!(
            read(pod).contains(concat!("image: edgehold:", env!("CARGO_PKG_VERSION"), "\n")),
            "{pod}"
        );
    }
}

#[test]
fn a_patch_changes_only_what_its_daemon_set_has() {
    let patch = &documents(&read("daemonset/overlays/edge/nodes.yaml"))[0];
    let set = &documents(&read("daemonset/base/daemonset.yaml"))[0];
    assert_eq!(patch["metadata"]["name"], set["metadata"]["name"]);
    let spec = patch["spec"]["template"]["spec"].as_object().unwrap();
    assert_eq!(spec.keys().collect::<Vec<_>>(), ["nodeSelector"]);
    assert!(set["spec"]["template"]["spec"]["nodeSelector"].is_object());
}

#[test]
fn the_kubeconfigs_point_at_the_address_of_the_configuration() {
    for name in ["kubelet.conf", "kube-proxy.conf"] {
        let path = deploy().join("kubeconfig").join(name);
        let found = Kubeconfig::parse(&fs::read_to_string(&path).unwrap(), &path).unwrap();
        assert_eq!(found.server, "https://127.0.0.1:51003", "{name}");
        assert!(matches!(found.authority, Authority::File(_)), "{name}");
    }
}

#[test]
fn the_agents_of_edge_nodes_find_edgehold_and_are_on_no_other_node() {
    let address = config::load(&deploy().join("../edge-node.yaml"))
        .unwrap()
        .listen
        .addresses[0];
    let elsewhere = read("agents/elsewhere.json");
    for name in ["kube-proxy.yaml", "flannel.yaml", "coredns.yaml"] {
        let documents = documents(&read(Path::new("agents").join(name)));
        let set = documents
            .iter()
            .find(|document| document["kind"] == "DaemonSet")
            .unwrap();
        let pod = &set["spec"]["template"]["spec"];
        for (label, value) in pod["nodeSelector"].as_object().unwrap() {
            assert!(elsewhere.contains(label.as_str()), "{name}: {label}: {value}");
        }
        assert_eq!(pod["hostNetwork"], true, "{name}");
        let container = &pod["containers"][0];
        let variable = |wanted: &str| {
            let variables = container["env"].as_array().unwrap().iter();
            let mut named = variables.filter(|variable| field(variable, "name") == wanted);
            named.next().map(|variable| field(variable, "value"))
        };
        let server = match documents
            .iter()
            .find_map(|document| document["data"]["kubeconfig.conf"].as_str())
        {
            Some(kubeconfig) => Kubeconfig::parse(kubeconfig, Path::new(name)).unwrap().server,
            None => format!(
                "https://{}:{}",
                variable("KUBERNETES_SERVICE_HOST").unwrap(),
                variable("KUBERNETES_SERVICE_PORT").unwrap()
            ),
        };
        assert_eq!(server, format!("https://{address}"), "{name}");
    }
}

#[test]
fn kube_proxys_kubeconfig_is_the_same_in_its_config_map_and_beside_it() {
    let map = &documents(&read("agents/kube-proxy.yaml"))[0];
    let beside = documents(&read("kubeconfig/kube-proxy.conf")).remove(0);
    let within = documents(map["data"]["kubeconfig.conf"].as_str().unwrap()).remove(0);
    assert_eq!(within, beside);
}
