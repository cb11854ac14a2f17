//! READY, STATUS and RESTARTS of a pod, as `kubectl get pods` shows them. Pure.
//!
//! The rules are those of kube-apiserver, which fills kubectl's table (`pkg/printers/internalversion/printers.go`,
//! `printPod`).

use std::time::SystemTime;

use serde_json::Value;

use super::age::{self, UNKNOWN};

/// The three cells; unknown where what is kept is not the whole pod.
pub(super) fn cells(pod: &Value, now: SystemTime) -> [String; 3] {
    if !at(pod, "/spec").is_object() || !at(pod, "/status").is_object() {
        return [UNKNOWN, UNKNOWN, UNKNOWN].map(str::to_owned);
    }
    let row = Row::of(pod);
    let restarts = match row.restarts {
        Restarts { count, last } if count > 0 && !last.is_empty() => {
            format!("{count} ({} ago)", age::since(last, now))
        }
        Restarts { count, .. } => count.to_string(),
    };
    [format!("{}/{}", row.ready, row.containers), row.status, restarts]
}

struct Row<'p> {
    ready: usize,
    containers: usize,
    status: String,
    restarts: Restarts<'p>,
}

#[derive(Default)]
struct Restarts<'p> {
    count: i64,
    /// When a container last ended: RFC 3339, which sorts as time does.
    last: &'p str,
}

impl<'p> Restarts<'p> {
    fn add(&mut self, container: &'p Value) {
        self.count = self
            .count
            .saturating_add(at(container, "/restartCount").as_i64().unwrap_or_default());
        self.last = self
            .last
            .max(text(at(container, "/lastState/terminated/finishedAt")));
    }
}

impl<'p> Row<'p> {
    fn of(pod: &'p Value) -> Self {
        let (spec, status) = (at(pod, "/spec"), at(pod, "/status"));
        let phase = text(at(status, "/phase"));
        let mut row = Self {
            ready: 0,
            containers: list(at(spec, "/containers")).len(),
            status: match text(at(status, "/reason")) {
                "" => phase.to_owned(),
                reason => reason.to_owned(),
            },
            restarts: Restarts::default(),
        };
        let gated = |condition: &Value| {
            text(at(condition, "/type")) == "PodScheduled"
                && text(at(condition, "/reason")) == "SchedulingGated"
        };
        if list(at(status, "/conditions")).iter().any(gated) {
            row.status = "SchedulingGated".to_owned();
        }
        let is_initializing = row.init_containers(spec, status);
        if !is_initializing || has_condition(status, "Initialized") {
            row.app_containers(spec, status);
        }
        if at(pod, "/metadata/deletionTimestamp").is_string() {
            if text(at(status, "/reason")) == "NodeLost" {
                row.status = "Unknown".to_owned();
            } else if !matches!(phase, "Succeeded" | "Failed") {
                row.status = "Terminating".to_owned();
            }
        }
        row
    }

    /// Gives whether one of them is still to come to its end.
    fn init_containers(&mut self, spec: &'p Value, status: &'p Value) -> bool {
        let specified = list(at(spec, "/initContainers"));
        self.containers += specified.iter().filter(|container| is_sidecar(container)).count();
        for (number, container) in list(at(status, "/initContainerStatuses")).iter().enumerate() {
            self.restarts.add(container);
            let (terminated, waiting) = (
                at(container, "/state/terminated"),
                at(container, "/state/waiting"),
            );
            let is_started = at(container, "/started").as_bool().unwrap_or_default();
            if terminated.is_object() && at(terminated, "/exitCode").as_i64().unwrap_or_default() == 0 {
                continue;
            }
            if is_started && sidecar(spec, container) {
                self.ready += usize::from(is_ready(container));
                continue;
            }
            let reason = text(at(waiting, "/reason"));
            self.status = if terminated.is_object() {
                format!("Init:{}", ended(terminated))
            } else if !matches!(reason, "" | "PodInitializing") {
                format!("Init:{reason}")
            } else {
                format!("Init:{number}/{}", specified.len())
            };
            return true;
        }
        false
    }

    /// Only their restarts count once they run, and those of sidecars.
    fn app_containers(&mut self, spec: &'p Value, status: &'p Value) {
        self.restarts = Restarts::default();
        for container in list(at(status, "/initContainerStatuses")) {
            if sidecar(spec, container) {
                self.restarts.add(container);
            }
        }
        let mut is_running = false;
        for container in list(at(status, "/containerStatuses")).iter().rev() {
            self.restarts.add(container);
            let state = at(container, "/state");
            let reason = text(at(state, "/waiting/reason"));
            if !reason.is_empty() {
                self.status = reason.to_owned();
            } else if at(state, "/terminated").is_object() {
                self.status = ended(at(state, "/terminated"));
            } else if is_ready(container) && at(state, "/running").is_object() {
                is_running = true;
                self.ready += 1;
            }
        }
        if self.status == "Completed" && is_running {
            let is_ready = has_condition(status, "Ready");
            self.status = if is_ready { "Running" } else { "NotReady" }.to_owned();
        }
    }
}

/// Why a container ended.
fn ended(terminated: &Value) -> String {
    let number = |field: &str| at(terminated, &format!("/{field}")).as_i64().unwrap_or_default();
    match (text(at(terminated, "/reason")), number("signal")) {
        ("", 0) => format!("ExitCode:{}", number("exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

/// Whether the init container of this status goes on running beside the others.
fn sidecar(spec: &Value, status: &Value) -> bool {
    let is_it = |container: &&Value| at(container, "/name") == at(status, "/name");
    list(at(spec, "/initContainers"))
        .iter()
        .find(is_it)
        .is_some_and(is_sidecar)
}

fn is_sidecar(container: &Value) -> bool {
    text(at(container, "/restartPolicy")) == "Always"
}

fn is_ready(container: &Value) -> bool {
    at(container, "/ready").as_bool().unwrap_or_default()
}

fn has_condition(status: &Value, kind: &str) -> bool {
    let is_it = |condition: &&Value| text(at(condition, "/type")) == kind;
    let found = list(at(status, "/conditions")).iter().find(is_it);
    found.is_some_and(|condition| text(at(condition, "/status")) == "True")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// What a JSON pointer leads to, or `null`.
fn at<'v>(value: &'v Value, pointer: &str) -> &'v Value {
    static NULL: Value = Value::Null;
    value.pointer(pointer).unwrap_or(&NULL)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn shown(pod: &Value) -> String {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(600);
        cells(pod, now).join(" ")
    }

    fn pod(status: Value) -> Value {
        json!({
            "metadata": {"name": "p"},
            "spec": {
                "containers": [{"name": "a"}, {"name": "b"}],
                "initContainers": [{"name": "i"}, {"name": "side", "restartPolicy": "Always"}],
            },
            "status": status,
        })
    }

    #[test]
    fn pods_are_shown_as_kubectl_shows_them() {
        let running =
            |name: &str| json!({"name": name, "ready": true, "restartCount": 0, "state": {"running": {}}});
        let ended = |name: &str, terminated: Value| json!({"name": name, "ready": false, "restartCount": 2, "state": {"terminated": terminated}});
        let waiting = |name: &str, reason: &str| json!({"name": name, "ready": false, "restartCount": 0, "state": {"waiting": {"reason": reason}}});
        let side = json!({"name": "side", "ready": true, "started": true, "restartCount": 1, "state": {"running": {}}});
        let done = ended("i", json!({"exitCode": 0, "reason": "Completed"}));
        for (status, expected) in [
            (json!({"phase": "Pending"}), "0/3 Pending 0"),
            (json!({"phase": "Failed", "reason": "Evicted"}), "0/3 Evicted 0"),
            (
                json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]}),
                "0/3 SchedulingGated 0",
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": [waiting("i", "PodInitializing"), waiting("side", "PodInitializing")]}),
                "0/3 Init:0/2 0",
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": [waiting("i", "ImagePullBackOff")]}),
                "0/3 Init:ImagePullBackOff 0",
            ),
            (
                json!({"phase": "Pending", "initContainerStatuses": [ended("i", json!({"exitCode": 1, "signal": 9}))]}),
                "0/3 Init:Signal:9 2",
            ),
            (
                json!({"phase": "Running", "initContainerStatuses": [done, side], "containerStatuses": [running("a"), running("b")]}),
                "3/3 Running 1",
            ),
            (
                json!({"phase": "Running", "containerStatuses": [running("a"), waiting("b", "CrashLoopBackOff")]}),
                "1/3 CrashLoopBackOff 0",
            ),
            (
                json!({"phase": "Failed", "containerStatuses": [ended("a", json!({"exitCode": 137}))]}),
                "0/3 ExitCode:137 2",
            ),
            (
                json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}],
                    "containerStatuses": [ended("a", json!({"exitCode": 0, "reason": "Completed"})), running("b")]}),
                "1/3 Running 2",
            ),
            (
                json!({"phase": "Running", "containerStatuses": [
                    {"name": "a", "ready": true, "restartCount": 3, "state": {"running": {}},
                     "lastState": {"terminated": {"exitCode": 1, "finishedAt": "1970-01-01T00:05:00Z"}}},
                    running("b")]}),
                "2/3 Running 3 (5m ago)",
            ),
        ] {
            assert_eq!(shown(&pod(status.clone())), expected, "{status}");
        }
    }

    #[test]
    fn a_pod_that_goes_away_is_said_to_and_one_of_which_little_is_kept_too() {
        let mut leaving = pod(json!({"phase": "Running"}));
        leaving["metadata"]["deletionTimestamp"] = json!("1970-01-01T00:00:00Z");
        assert_eq!(shown(&leaving), "0/3 Terminating 0");
        leaving["status"] = json!({"phase": "Running", "reason": "NodeLost"});
        assert_eq!(shown(&leaving), "0/3 Unknown 0");
        leaving["status"] = json!({"phase": "Succeeded"});
        assert_eq!(shown(&leaving), "0/3 Succeeded 0");
        assert_eq!(shown(&json!({"metadata": {"name": "p"}})), "? ? ?");
    }
}
