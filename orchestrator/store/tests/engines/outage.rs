//! etcd down, silent, back; and etcd over TLS.

use std::{fs, path::Path, sync::Arc, time::Instant};

use prometheus::Registry;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use store::{
    EngineConfig, EtcdTls, KeyRange, Op, RangeOptions, Store, StoreConfig, StoreError, Txn, WatchItem,
};

use crate::{
    etcd::Etcd,
    rig::{PATIENCE, Rig, get, next_events, put, temporary},
};

async fn try_put(store: &dyn Store, key: &'static str) -> Result<(), StoreError> {
    store.txn(Txn { then: vec![Op::put(key, "x")], ..Txn::default() }).await.map(drop)
}

async fn read(store: &dyn Store) -> Result<u64, StoreError> {
    store.range(KeyRange::prefix("/"), RangeOptions::default()).await.map(|result| result.count)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_down_is_said_and_recovers_by_itself() {
    let mut rig = Rig::etcd();
    let store = rig.open().await;
    put(&*store, "/a", "1").await;
    let mut watch = store.watch(KeyRange::prefix("/"), 1).await.expect("watches");
    assert_eq!(next_events(&mut watch).await, "/a=1<-");

    rig.etcd.as_mut().expect("is etcd").kill();
    let start = Instant::now();
    let error = read(&*store).await.expect_err("down");
    let url = rig.etcd.as_ref().expect("is etcd").url();
    assert!(matches!(&error, StoreError::Unavailable { reason } if reason.contains(&url)), "{error}");
    let error = try_put(&*store, "/b").await.expect_err("down");
    assert!(matches!(&error, StoreError::Unavailable { .. } | StoreError::OutcomeUnknown { .. }), "{error}");
    assert!(error.to_string().contains("check that it runs"), "{error}");
    let error = try_put(&*store, "/b").await.expect_err("down");
    assert!(
        matches!(&error, StoreError::Unavailable { .. }),
        "a refused connection has written nothing: {error}"
    );
    assert!(start.elapsed() < PATIENCE);
    let error = rig.try_open().await.err().expect("down");
    assert!(matches!(&error, StoreError::Unavailable { .. }), "{error}");

    rig.etcd.as_mut().expect("is etcd").restart();
    while let Err(error) = read(&*store).await {
        assert!(start.elapsed() < PATIENCE, "{error}");
    }
    put(&*store, "/a", "2").await;
    assert_eq!(next_events(&mut watch).await, "/a=2<1", "the watch has gone on");
    assert_eq!(get(&*store, "/a").await.expect("exists").value, "2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_etcd_is_given_up_on() {
    let rig = Rig::etcd();
    let store = rig.open().await;
    put(&*store, "/a", "1").await;
    let etcd = rig.etcd.as_ref().expect("is etcd");
    etcd.signal("STOP");
    let start = Instant::now();
    let (read, written) = tokio::join!(read(&*store), try_put(&*store, "/b"));
    etcd.signal("CONT");
    assert!(start.elapsed() < PATIENCE);
    let error = read.expect_err("silent");
    assert!(matches!(&error, StoreError::Silent { .. }), "{error}");
    let error = written.expect_err("silent");
    assert!(matches!(&error, StoreError::OutcomeUnknown { .. }), "it may have been written: {error}");
}

#[tokio::test]
async fn a_closed_store_ends_its_watches() {
    let rig = Rig::etcd();
    let store = rig.open().await;
    let mut watch = store.watch(KeyRange::prefix("/"), 1).await.expect("watches");
    let waiting = tokio::spawn(async move {
        loop {
            match crate::rig::next(&mut watch).await {
                Ok(WatchItem::Progress { .. } | WatchItem::Events { .. }) => {}
                Err(error) => return error,
            }
        }
    });
    store.close().await;
    assert_eq!(waiting.await.expect("ends"), StoreError::Closed);
    assert_eq!(read(&*store).await, Err(StoreError::Closed));
}

/// A CA with a certificate for the server and one for the client, as files.
fn certificates(directory: &Path) -> EtcdTls {
    let mut params = CertificateParams::new(Vec::new()).expect("valid");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("signs");
    let write = |name: &str, text: String| {
        fs::write(directory.join(name), text).expect("writes");
        directory.join(name)
    };
    let issue = |name: &str, usage| {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("valid");
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &ca).expect("signs");
        (write(&format!("{name}.crt"), certificate.pem()), write(&format!("{name}.key"), key.serialize_pem()))
    };
    issue("server", ExtendedKeyUsagePurpose::ServerAuth);
    let client = issue("client", ExtendedKeyUsagePurpose::ClientAuth);
    EtcdTls { ca_file: write("ca.crt", ca.pem()), client: Some(client) }
}

async fn open_with(etcd: &Etcd, tls: Option<EtcdTls>) -> Result<Arc<dyn Store>, StoreError> {
    let engine = EngineConfig::Etcd { endpoints: vec![etcd.url()] };
    store::open(StoreConfig { etcd_tls: tls, ..StoreConfig::new(engine) }, &Registry::new()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_with_client_certificates() {
    let directory = temporary();
    let tls = certificates(directory.path());
    let file = |name: &str| directory.path().join(name).display().to_string();
    let options = [
        ("--cert-file", file("server.crt")),
        ("--key-file", file("server.key")),
        ("--trusted-ca-file", file("ca.crt")),
        ("--client-cert-auth", "true".into()),
    ];
    let etcd =
        Etcd::start_with(directory.path(), options.map(|(name, value)| format!("{name}={value}")).to_vec());
    let store = open_with(&etcd, Some(tls.clone())).await.expect("opens");
    put(&*store, "/a", "1").await;
    let mut watch = store.watch(KeyRange::prefix("/"), 1).await.expect("watches");
    assert_eq!(next_events(&mut watch).await, "/a=1<-");

    let error =
        open_with(&etcd, Some(EtcdTls { client: None, ..tls.clone() })).await.err().expect("no certificate");
    assert!(matches!(&error, StoreError::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("client certificate"), "{error}");
    let stranger = certificates(temporary().path());
    let error = open_with(&etcd, None).await.err().expect("no CA").to_string();
    assert!(error.contains("CA that signed"), "{error}");
    let error = open_with(&etcd, Some(stranger)).await.err().expect("no files").to_string();
    assert!(error.contains("ca.crt") && error.contains("cannot be read"), "{error}");
    let other = temporary();
    let error =
        open_with(&etcd, Some(certificates(other.path()))).await.err().expect("another CA").to_string();
    assert!(error.contains(&etcd.url()) && error.contains("CA file"), "{error}");
}
