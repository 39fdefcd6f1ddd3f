//! Files and directories that every pod gets beside its volumes: resolv.conf, /etc/hosts, logs, termination messages.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::settings::PodSettings;
use crate::objects::{Container, DnsPolicy, Pod, PodRef};
use crate::runtime::DnsSettings;

/// Bytes of a termination message, and of the log tail that may stand in for it.
const MESSAGE_BYTES_MAX: u64 = 4096;
const FALLBACK_BYTES_MAX: u64 = 2048;
const FALLBACK_LINES_MAX: usize = 80;

/// Longest host name that the kernel takes.
const HOSTNAME_MAX: usize = 63;

/// Where a container finds its termination message file when it says nothing.
const MESSAGE_PATH_DEFAULT: &str = "/dev/termination-log";

/// Every pod's resolver asks for short names in the pod's own namespace first.
const CLUSTER_OPTIONS: &str = "ndots:5";

/// resolv.conf of a pod.
pub fn dns(pod: &Pod, settings: &PodSettings) -> DnsSettings {
    let node = || parse_resolv_conf(&fs::read_to_string(&settings.resolv_conf).unwrap_or_default());
    let cluster = match pod.spec.dns_policy {
        DnsPolicy::ClusterFirst => !pod.spec.host_network,
        DnsPolicy::ClusterFirstWithHostNet => true,
        DnsPolicy::Default | DnsPolicy::None => false,
    };
    let mut made = match pod.spec.dns_policy {
        DnsPolicy::None => DnsSettings::default(),
        _ if cluster && !settings.cluster_dns.is_empty() => {
            let domain = &settings.cluster_domain;
            let own =
                [format!("{}.svc.{domain}", pod.metadata.namespace), format!("svc.{domain}"), domain.clone()];
            DnsSettings {
                servers: settings.cluster_dns.iter().map(IpAddr::to_string).collect(),
                searches: own.into_iter().chain(node().searches).collect(),
                options: vec![CLUSTER_OPTIONS.to_owned()],
            }
        }
        _ => node(),
    };
    if let Some(more) = &pod.spec.dns_config {
        made.servers.extend(more.nameservers.iter().cloned());
        made.searches.extend(more.searches.iter().cloned());
        for option in &more.options {
            let same = |line: &String| line.split(':').next() == Some(option.name.as_str());
            made.options.retain(|line| !same(line));
            made.options.push(match &option.value {
                Some(value) => format!("{}:{value}", option.name),
                None => option.name.clone(),
            });
        }
    }
    keep_first(&mut made.servers);
    keep_first(&mut made.searches);
    made
}

fn parse_resolv_conf(text: &str) -> DnsSettings {
    let mut made = DnsSettings::default();
    for line in text.lines() {
        let mut words = line.split_whitespace().map(str::to_owned);
        match words.next().as_deref() {
            Some("nameserver") => made.servers.extend(words.next()),
            // Of several such lines the last one counts.
            Some("search" | "domain") => made.searches = words.filter(|word| word != ".").collect(),
            Some("options") => made.options = words.collect(),
            _ => {}
        }
    }
    made
}

fn keep_first(list: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    list.retain(|item| seen.insert(item.clone()));
}

/// Host name and, where the pod has a subdomain, fully qualified name.
pub fn host_names(pod: &Pod, cluster_domain: &str) -> (String, Option<String>) {
    let name = if pod.spec.hostname.is_empty() { &*pod.metadata.name } else { pod.spec.hostname.as_str() };
    let short: String = name.chars().take(HOSTNAME_MAX).collect();
    let short = short.trim_end_matches(['-', '.']).to_owned();
    let full = (!pod.spec.subdomain.is_empty())
        .then(|| format!("{short}.{}.{}.svc.{cluster_domain}", pod.spec.subdomain, pod.metadata.namespace));
    (short, full)
}

/// /etc/hosts of a pod.
pub fn hosts(pod: &Pod, ips: &[IpAddr], cluster_domain: &str, node_hosts: &str) -> String {
    let mut text = String::from("# Kubernetes-managed hosts file");
    if pod.spec.host_network {
        text.push_str(" (host network).\n");
        text.push_str(node_hosts);
    } else {
        text.push_str(
            ".\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
             fe00::\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
        );
        let (short, full) = host_names(pod, cluster_domain);
        let names = full.map_or(short.clone(), |full| format!("{full}\t{short}"));
        for ip in ips {
            text.push_str(&format!("{ip}\t{names}\n"));
        }
    }
    if !pod.spec.host_aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        for alias in &pod.spec.host_aliases {
            text.push_str(&format!("{}\t{}\n", alias.ip, alias.hostnames.join("\t")));
        }
    }
    text
}

/// Directory of a pod's logs.
pub fn log_directory(settings: &PodSettings, pod: &PodRef) -> PathBuf {
    settings.logs_directory.join(format!("{}_{}_{}", pod.namespace, pod.name, pod.uid))
}

/// Log file of one run, below the pod's log directory.
pub fn log_path(container: &str, attempt: u32) -> String {
    format!("{container}/{attempt}.log")
}

/// Host path of the termination message of one run.
pub fn message_file(settings: &PodSettings, uid: &str, container: &str, attempt: u32) -> PathBuf {
    settings.pods_directory.join(uid).join("containers").join(container).join(format!("message-{attempt}"))
}

/// Container path of the termination message.
pub fn message_path(container: &Container) -> &str {
    match container.termination_message_path.as_str() {
        "" => MESSAGE_PATH_DEFAULT,
        path => path,
    }
}

/// Makes an empty file, with the directories above it, that any user may write.
pub fn writable_file(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, "")?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o666))
}

/// What a run left as its message: the file, or after a failure the end of its log if the container wants that.
pub fn termination_message(container: &Container, message: &Path, log: &Path, code: i32) -> String {
    let text = read_end(message, MESSAGE_BYTES_MAX, false).unwrap_or_default();
    if !text.is_empty() || code == 0 || container.termination_message_policy != "FallbackToLogsOnError" {
        return text;
    }
    let tail = read_end(log, FALLBACK_BYTES_MAX * 2, true).unwrap_or_default();
    let lines: Vec<&str> = tail.lines().filter_map(crate::logs::content).collect();
    let kept = lines[lines.len().saturating_sub(FALLBACK_LINES_MAX)..].join("\n");
    let cut = kept.len().saturating_sub(usize::try_from(FALLBACK_BYTES_MAX).unwrap_or(usize::MAX));
    let start = (cut..=kept.len()).find(|at| kept.is_char_boundary(*at)).unwrap_or(kept.len());
    kept[start..].to_owned()
}

/// The first (or last) `max` bytes of a file.
fn read_end(path: &Path, max: u64, last: bool) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    if last {
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(max)))?;
    }
    let mut bytes = Vec::new();
    file.take(max).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroups::Cgroups;

    fn settings(directory: &Path) -> PodSettings {
        let resolv_conf = directory.join("resolv.conf");
        fs::write(&resolv_conf, "nameserver 9.9.9.9\nsearch example.com .\noptions edns0\n")
            .expect("written");
        PodSettings {
            node_name: "node-1".into(),
            pods_directory: directory.join("pods"),
            logs_directory: directory.join("logs"),
            cgroups: Cgroups::discover("test").expect("mountinfo"),
            facts: std::sync::Arc::default(),
            memory_capacity: 1 << 30,
            cluster_dns: vec!["10.96.0.10".parse().expect("an address")],
            cluster_domain: "cluster.local".into(),
            resolv_conf,
            restart_limits: super::super::state::RestartLimits::default(),
        }
    }

    fn pod(spec: serde_json::Value) -> Pod {
        let json =
            serde_json::json!({"metadata": {"name": "web", "namespace": "shop", "uid": "u"}, "spec": spec});
        serde_json::from_value(json).expect("a pod")
    }

    #[test]
    fn resolv_conf_follows_the_policy() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut settings = settings(directory.path());
        let made = dns(&pod(serde_json::json!({})), &settings);
        assert_eq!(made.servers, ["10.96.0.10"]);
        assert_eq!(
            made.searches,
            ["shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "example.com"]
        );
        assert_eq!(dns(&pod(serde_json::json!({"hostNetwork": true})), &settings).servers, ["9.9.9.9"]);
        let own = serde_json::json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "options": [{"name": "ndots", "value": "2"}]}});
        let made = dns(&pod(own), &settings);
        assert_eq!((made.servers, made.options), (vec!["1.1.1.1".to_owned()], vec!["ndots:2".to_owned()]));
        settings.cluster_dns.clear();
        assert_eq!(dns(&pod(serde_json::json!({})), &settings).servers, ["9.9.9.9"]);
    }

    #[test]
    fn hosts_name_the_pod_and_its_aliases() {
        let pod = pod(
            serde_json::json!({"subdomain": "db", "hostAliases": [{"ip": "10.0.0.9", "hostnames": ["x", "y"]}]}),
        );
        let text = hosts(&pod, &["10.244.0.5".parse().expect("an address")], "cluster.local", "");
        assert!(text.contains("10.244.0.5\tweb.db.shop.svc.cluster.local\tweb\n"), "{text}");
        assert!(text.ends_with("# Entries added by HostAliases.\n10.0.0.9\tx\ty\n"), "{text}");
    }

    #[test]
    fn the_log_stands_in_for_a_missing_message_after_a_failure() {
        let directory = tempfile::tempdir().expect("a directory");
        let (message, log) = (directory.path().join("m"), directory.path().join("l"));
        writable_file(&message).expect("made");
        fs::write(&log, "2026-01-01T00:00:00Z stderr F boom\n").expect("written");
        let container =
            Container { termination_message_policy: "FallbackToLogsOnError".into(), ..Container::default() };
        assert_eq!(termination_message(&container, &message, &log, 1), "boom");
        assert_eq!(termination_message(&container, &message, &log, 0), "");
        fs::write(&message, "said so").expect("written");
        assert_eq!(termination_message(&container, &message, &log, 1), "said so");
    }
}
