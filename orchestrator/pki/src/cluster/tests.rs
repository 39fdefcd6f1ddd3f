//! A server's directory over its life, and handshakes with what it holds.
use std::{
    os::unix::fs::PermissionsExt,
    time::{Duration, UNIX_EPOCH},
};

use rustls::{ClientConnection, ServerConnection};
use rustls_pki_types::ServerName;

use super::*;
use crate::{
    ca::Usage,
    csr::{CertificateRequest, PendingIdentity},
    service_account::{BoundClaims, Claims, ObjectClaim},
    tls::{self, ClientAuth, ServingCertificate},
};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn config(directory: &Path) -> Config {
    Config {
        directory: directory.join("pki"),
        server_names: ServerNames::from_texts(["node-1", "10.96.0.1"]),
    }
}

fn open(directory: &Path, now: SystemTime) -> ClusterPki {
    ClusterPki::open_or_create(&config(directory), now).unwrap()
}

#[test]
fn a_second_start_changes_nothing_and_keys_are_private() {
    let directory = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let (first, second) = (open(directory.path(), now), open(directory.path(), now + DAY));
    assert_eq!(first.ca.certificate(), second.ca.certificate());
    assert_eq!(first.apiserver.certificate(), second.apiserver.certificate());
    assert_eq!(first.admin.certificate(), second.admin.certificate());
    assert_eq!(first.token, second.token);
    for entry in std::fs::read_dir(directory.path().join("pki")).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        let public = entry.file_name() == "ca.crt";
        assert_eq!(mode, if public { 0o644 } else { 0o600 }, "{:?}", entry.path());
    }
}

#[test]
fn what_expires_is_made_again() {
    let directory = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let first = open(directory.path(), now);
    let later = open(directory.path(), now + 300 * DAY);
    assert_eq!(first.ca.certificate(), later.ca.certificate(), "the authority lives ten years");
    assert_ne!(first.apiserver.certificate(), later.apiserver.certificate());
    assert!(later.admin.facts().is_valid(now + 500 * DAY));
    let much_later = open(directory.path(), now + 11 * 365 * DAY);
    assert_ne!(first.ca.certificate(), much_later.ca.certificate());
    assert!(much_later.ca.has_signed(much_later.scheduler.certificate()));
    assert_ne!(first.token.ca_sha256, much_later.token.ca_sha256);
}

#[test]
fn a_new_name_and_a_damaged_file_make_a_new_certificate() {
    let directory = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let first = open(directory.path(), now);
    let mut config = config(directory.path());
    config.server_names.ips.insert(IpAddr::from([192, 0, 2, 7]));
    std::fs::write(config.directory.join("admin.pem"), "-----BEGIN CERTIFICATE-----\nxx").unwrap();
    let second = ClusterPki::open_or_create(&config, now).unwrap();
    assert_ne!(first.apiserver.certificate(), second.apiserver.certificate());
    assert!(second.apiserver.facts().ip_addresses.contains(&IpAddr::from([192, 0, 2, 7])));
    assert!(second.ca.has_signed(second.admin.certificate()));
    assert_eq!(first.scheduler.certificate(), second.scheduler.certificate());
}

#[test]
fn a_kubeconfig_names_server_and_user() {
    let directory = tempfile::tempdir().unwrap();
    let pki = open(directory.path(), SystemTime::now());
    let path = directory.path().join("admin.kubeconfig");
    pki.write_admin_kubeconfig(&path, "https://127.0.0.1:6443").unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(
        text.contains("server: https://127.0.0.1:6443\n") && text.contains("current-context: admin@bowsprit")
    );
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn the_signer_gives_node_identities_only() {
    let directory = tempfile::tempdir().unwrap();
    let pki = open(directory.path(), SystemTime::now());
    let request = |subject: Subject, names: ServerNames| {
        let pending = PendingIdentity::generate(subject, names).unwrap();
        let request = CertificateRequest::from_pem(&pending.request_pem().unwrap()).unwrap();
        (pending, request)
    };
    let (pending, good) = request(Subject::node("n1"), ServerNames::default());
    assert_eq!(good.check_node_client().unwrap(), "n1");
    assert!(good.check_node_serving().is_err());
    let identity = pending.finish(&pki.ca.sign(&good, Usage::Client, SystemTime::now()).unwrap()).unwrap();
    assert!(identity.facts().client_auth && !identity.facts().server_auth);
    assert_eq!(identity.facts().subject.node_name(), Some("n1"));

    let (_, serving) = request(Subject::node("n1"), ServerNames::from_texts(["n1", "10.0.0.1"]));
    assert_eq!(serving.check_node_serving().unwrap(), "n1");
    for (name, group) in [
        ("system:node:n1", GROUP_MASTERS),
        ("admin", "system:nodes"),
        ("system:node:", "system:nodes"),
        ("system:node:A b", "system:nodes"),
    ] {
        let (_, bad) = request(Subject::new(name, group), ServerNames::default());
        assert!(matches!(bad.check_node_client(), Err(Error::Refused { .. })), "{name} {group}");
    }
    let (pending, _) = request(Subject::node("n2"), ServerNames::default());
    assert!(pending.finish(identity.certificate_pem()).is_err(), "a certificate for another key");
    assert!(CertificateRequest::from_pem("nonsense").is_err());
}

#[test]
fn service_account_tokens_are_verified() {
    let key = ServiceAccountKey::from_pem(&ServiceAccountKey::generate_pem().unwrap()).unwrap();
    let claims = Claims {
        issuer: "https://kubernetes.default.svc".into(),
        subject: "system:serviceaccount:default:default".into(),
        audiences: vec!["api".into()],
        expires: 2000,
        issued_at: 1000,
        not_before: 1000,
        id: String::new(),
        bound: BoundClaims {
            namespace: "default".into(),
            serviceaccount: ObjectClaim { name: "default".into(), uid: "u".into() },
            ..BoundClaims::default()
        },
    };
    let token = key.sign(&claims).unwrap();
    let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
    assert_eq!(key.verify(&token, &["api"], at(1500)).unwrap(), claims);
    assert!(key.verify(&token, &["other"], at(1500)).is_err());
    assert!(key.verify(&token, &["api"], at(2000)).is_err());
    assert!(key.verify(&token, &["api"], at(900)).is_err());
    let other = ServiceAccountKey::from_pem(&ServiceAccountKey::generate_pem().unwrap()).unwrap();
    assert!(other.verify(&token, &["api"], at(1500)).is_err());
    let mut forged: Vec<&str> = token.split('.').collect();
    let changed =
        other.sign(&Claims { subject: "system:serviceaccount:kube-system:x".into(), ..claims }).unwrap();
    forged[1] = changed.split('.').nth(1).unwrap();
    assert!(key.verify(&forged.join("."), &["api"], at(1500)).is_err());
    for garbage in ["", ".", "..", "a.b.c", &"x".repeat(10_000)] {
        assert!(key.verify(garbage, &["api"], at(1500)).is_err());
    }
}

#[test]
fn tokens_are_parsed_and_compared() {
    let token = Token::generate("ab".repeat(32)).unwrap();
    let parsed: Token = token.reveal().parse().unwrap();
    assert_eq!(parsed, token);
    assert!(
        token.accepts(&parsed.bearer())
            && !token.accepts("")
            && !token.accepts(&format!("{}x", parsed.bearer()))
    );
    assert!(!format!("{token:?}").contains(&token.bearer()[7..]));
    for bad in ["", "a.b", "a.b.c.d", &token.bearer(), &token.reveal()[..80]] {
        assert!(bad.parse::<Token>().unwrap_err().to_string().contains("bowsprit token"), "{bad}");
    }
}

/// Runs a handshake in memory; returns the client's certificate as the server saw it.
fn handshake(
    client: rustls::ClientConfig,
    server: rustls::ServerConfig,
) -> Result<Option<Vec<u8>>, rustls::Error> {
    let mut client =
        ClientConnection::new(client.into(), ServerName::try_from("localhost").unwrap()).unwrap();
    let mut server = ServerConnection::new(server.into()).unwrap();
    while client.is_handshaking() || server.is_handshaking() || client.wants_write() || server.wants_write() {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut rest = &wire[..];
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets()?;
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut rest = &wire[..];
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets()?;
        }
    }
    Ok(server.peer_certificates().map(|chain| chain[0].to_vec()))
}

#[test]
fn handshakes_by_certificate_and_by_pin() {
    let directory = tempfile::tempdir().unwrap();
    let pki = open(directory.path(), SystemTime::now());
    let certificate = ServingCertificate::new(&pki.apiserver, pki.ca.certificate()).unwrap();
    let server = |auth| tls::server_config(certificate.clone(), pki.ca.certificate(), auth).unwrap();

    let client = tls::client_config(pki.ca.certificate(), Some(&pki.admin)).unwrap();
    let seen = handshake(client, server(ClientAuth::Required)).unwrap().unwrap();
    let facts = crate::CertificateFacts::from_der(&seen).unwrap();
    assert_eq!(facts.subject, Subject::new("admin", GROUP_MASTERS));

    let (client, pinned) = tls::pinned_client_config(&pki.token.ca_sha256).unwrap();
    assert_eq!(handshake(client.clone(), server(ClientAuth::Optional)).unwrap(), None);
    assert_eq!(pinned.certificate().as_ref(), Some(pki.ca.certificate()));
    assert!(handshake(client, server(ClientAuth::Required)).is_err());

    let (client, pinned) = tls::pinned_client_config(&"0".repeat(64)).unwrap();
    let error = handshake(client, server(ClientAuth::Optional)).unwrap_err();
    assert!(error.to_string().contains("token") && pinned.certificate().is_none());

    let other = tempfile::tempdir().unwrap();
    let stranger = open(other.path(), SystemTime::now());
    let client = tls::client_config(stranger.ca.certificate(), None).unwrap();
    assert!(handshake(client, server(ClientAuth::Optional)).is_err());
}
