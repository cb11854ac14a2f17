//! What is not counted but looked up whenever somebody asks: the process, the store, certificates, the last contact.

use std::fmt;
use std::fs;
use std::sync::Arc;
use std::time::SystemTime;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use crate::runtime::clock;
use crate::runtime::problem::Code;
use crate::tls::CertificateState;

use super::facts::Observer;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CertificateLabels {
    kind: &'static str,
    name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CertificateStateLabels {
    kind: &'static str,
    name: String,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StoreFailure {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Forgotten {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProblemLabels {
    code: &'static str,
}

/// Everything that is looked up for `/metrics`.
pub struct ProcessMetrics(pub Arc<Observer>);

impl ProcessMetrics {
    /// Adds itself, and which build this is.
    pub fn register(self, registry: &mut Registry) {
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("edgehold_build", "The version of this edgehold", build);
        registry.register_collector(Box::new(self));
    }

    fn process(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let started = seconds(self.0.started);
        gauge(
            encoder,
            "process_start_time_seconds",
            "When the process started, since 1970",
            started,
        )?;
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        for (field, name, help) in [
            ("VmRSS:", "process_resident_memory_bytes", "Resident memory"),
            ("VmSize:", "process_virtual_memory_bytes", "Virtual memory"),
        ] {
            if let Some(kib) = number_after(&status, field) {
                gauge(encoder, name, help, kib * 1024.0)?;
            }
        }
        if let Some(threads) = number_after(&status, "Threads:") {
            gauge(encoder, "process_threads", "Threads", threads)?;
        }
        let cpu = clock_gettime(ClockId::ProcessCPUTime);
        let cpu = cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9;
        counter(encoder, "process_cpu_seconds", "Processor time", cpu)?;
        if let Ok(open) = fs::read_dir("/proc/self/fd") {
            gauge(
                encoder,
                "process_open_fds",
                "Open descriptors",
                open.count() as f64,
            )?;
        }
        if let Some(most) = getrlimit(Resource::Nofile).current {
            gauge(
                encoder,
                "process_max_fds",
                "Descriptors that may be open",
                most as f64,
            )?;
        }
        Ok(())
    }

    fn store(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let stats = self.0.store.stats();
        gauge(
            encoder,
            "edgehold_store_bytes",
            "Bytes that the cache takes",
            stats.bytes as f64,
        )?;
        gauge(
            encoder,
            "edgehold_store_logs",
            "Views, sets of objects and documents that are kept",
            stats.logs as f64,
        )?;
        for (name, help, value) in [
            (
                "edgehold_store_evicted",
                "Logs removed because the cache was larger than cache.maxSize",
                stats.evicted,
            ),
            (
                "edgehold_store_damaged",
                "Damaged files that were put aside",
                stats.quarantined,
            ),
            (
                "edgehold_store_compactions",
                "Logs rewritten without their garbage",
                stats.compactions,
            ),
        ] {
            counter(encoder, name, help, value as f64)?;
        }
        let failures = Family::<StoreFailure, prometheus_client::metrics::counter::Counter>::default();
        for (reason, value) in [("write", stats.write_failures), ("sync", stats.sync_failures)] {
            failures.get_or_create(&StoreFailure { reason }).inc_by(value);
        }
        family(
            encoder,
            "edgehold_store_failures",
            "Writes that failed on the disk",
            &failures,
        )
    }

    fn cache(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Some(proxy) = self.0.proxy.upgrade() else {
            return Ok(());
        };
        let stats = proxy.cache().stats();
        let forgotten = Family::<Forgotten, prometheus_client::metrics::counter::Counter>::default();
        for (reason, value) in [
            ("bound", stats.evicted_objects),
            ("unwritten", stats.unwritten_objects),
        ] {
            forgotten.get_or_create(&Forgotten { reason }).inc_by(value);
        }
        let help = "Objects, read one by one, that were forgotten: a client had too many, or the disk could not be told of a change";
        family(encoder, "edgehold_cache_objects_forgotten", help, &forgotten)?;
        let help = "Views that do not follow what their clients watch, until a list of edgehold's own has made them whole";
        gauge(encoder, "edgehold_views_behind", help, stats.views_behind as f64)
    }

    fn problems(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let problems = Family::<ProblemLabels, Gauge>::default();
        let findings = self.0.findings(clock::wall());
        // Each has its series, so that an alert ends.
        for code in Code::ALL {
            let count = findings.iter().filter(|finding| finding.code == code).count();
            let labels = ProblemLabels { code: code.as_str() };
            problems
                .get_or_create(&labels)
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let help = "How much is wrong at this moment, by the code of docs/troubleshooting.md";
        family(encoder, "edgehold_problems", help, &problems)?;
        let offset = self.0.proxy.upgrade().and_then(|proxy| proxy.clock_offset());
        match offset {
            Some(offset) => gauge(
                encoder,
                "edgehold_clock_offset_seconds",
                "How far the clock of this node is ahead of the apiserver's",
                offset.seconds as f64,
            ),
            None => Ok(()),
        }
    }

    fn certificates(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let ends = Family::<CertificateLabels, Gauge>::default();
        let states = Family::<CertificateStateLabels, Gauge>::default();
        for status in self.0.certificates.statuses() {
            let (kind, name) = (status.kind.as_str(), escaped(&status.name));
            if let Some(end) = status.not_after {
                let labels = CertificateLabels {
                    kind,
                    name: name.clone(),
                };
                ends.get_or_create(&labels).set(seconds(end) as i64);
            }
            for state in CertificateState::ALL {
                let labels = CertificateStateLabels {
                    kind,
                    name: name.clone(),
                    state: state.as_str(),
                };
                states
                    .get_or_create(&labels)
                    .set(i64::from(state == status.state));
            }
        }
        let help = "End of validity of each certificate in use, since 1970";
        family(
            encoder,
            "edgehold_certificate_expiry_timestamp_seconds",
            help,
            &ends,
        )?;
        family(
            encoder,
            "edgehold_certificate_state",
            "1 for the state of each certificate file",
            &states,
        )
    }
}

impl Collector for ProcessMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.process(&mut encoder)?;
        self.store(&mut encoder)?;
        self.cache(&mut encoder)?;
        self.certificates(&mut encoder)?;
        self.problems(&mut encoder)?;
        let behind = self.0.proxy.upgrade().map(|proxy| proxy.watches_behind());
        if let Some(behind) = behind {
            let help =
                "For how long the watch that has been held or healing for longest has been so; 0 if none is";
            let seconds = behind.as_secs_f64();
            gauge(&mut encoder, "edgehold_watches_behind_seconds", help, seconds)?;
        }
        let contact = self.0.proxy.upgrade().and_then(|proxy| proxy.last_contact());
        if let Some(contact) = contact {
            let help = "The last contact with the cloud, by its clock, since 1970";
            gauge(
                &mut encoder,
                "edgehold_last_contact_timestamp_seconds",
                help,
                seconds(contact),
            )?;
        }
        Ok(())
    }
}

impl fmt::Debug for ProcessMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessMetrics").finish_non_exhaustive()
    }
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: f64) -> fmt::Result {
    family(encoder, name, help, &ConstGauge::new(value))
}

fn counter(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: f64) -> fmt::Result {
    family(encoder, name, help, &ConstCounter::new(value))
}

fn family(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    metric: &impl EncodeMetric,
) -> fmt::Result {
    // As the registry ends its own.
    let help = format!("{help}.");
    metric.encode(encoder.encode_descriptor(name, &help, None, metric.metric_type())?)
}

/// A label's value as the text format wants it, which prometheus-client writes as it stands. Common names may hold anything.
fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

/// The number in the line of `/proc/PID/status` that begins so.
fn number_after(status: &str, field: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_common_name_cannot_break_the_line() {
        assert_eq!(escaped("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }

    #[test]
    fn numbers_are_read_from_the_kernels_status() {
        let status = "Name:\tedgehold\nVmSize:\t   2048 kB\nVmRSS:\t    512 kB\nThreads:\t7\n";
        assert_eq!(number_after(status, "VmRSS:"), Some(512.0));
        assert_eq!(number_after(status, "Threads:"), Some(7.0));
        assert_eq!(number_after(status, "VmSwap:"), None);
    }
}
