//! The client: verbs over resources. Cheap to clone; all clones share one transport.
use std::{sync::Arc, time::Duration};

use api::UserInfo;
use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{ACCEPT, CONTENT_TYPE, USER_AGENT},
};
use http_body_util::BodyExt;
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;
use tower::Service;

use crate::{
    ApiResource, Body, BoxError, ConnectConfig, DeleteOptions, Error, HasMeta, ListOptions, Patch, Resource,
    ResponseBody, Revision, Status,
    query::Query,
    transport::{InProcess, Transport, http2::Http2},
    watch::Watch,
};

/// Longer than any single request of ours takes; watches have no such limit.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Objects on a page of a list: a page of pods is some megabytes, which bounds what a relist holds beside the cache.
const PAGE_LIMIT: &str = "1000";
const JSON: &str = "application/json";
const METADATA_JSON: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
const METADATA_LIST_JSON: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

/// A client of an API server.
#[derive(Clone)]
pub struct Client {
    transport: Arc<dyn Transport>,
    remote: Option<Arc<Http2>>,
    agent: HeaderValue,
}

/// A list and the revision at which it was true.
#[derive(Debug)]
pub struct List<T> {
    /// Its objects.
    pub items: Vec<T>,
    /// The revision from which a watch goes on.
    pub revision: Revision,
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(default)]
    metadata: PageMeta,
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct PageMeta {
    resource_version: String,
    #[serde(rename = "continue")]
    next: Option<String>,
}

// === making one ===

impl Client {
    /// A client of a server in this process, acting as `user`.
    pub fn new<S, B>(service: S, user: UserInfo) -> Self
    where
        S: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Future: Send,
        S::Error: Into<BoxError>,
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let agent = HeaderValue::from_static("bowsprit");
        Self { transport: Arc::new(InProcess { service, user }), remote: None, agent }
    }

    /// A client of a remote server. Connects at the first request.
    pub fn connect(config: &ConnectConfig) -> Result<Self, Error> {
        let remote = Http2::new(config)?;
        let agent = HeaderValue::from_static("bowsprit");
        Ok(Self { transport: Arc::new(remote.clone()), remote: Some(remote), agent })
    }

    /// The same client under another name: the user agent, and with it the owner of the fields it writes.
    pub fn named(&self, name: &'static str) -> Self {
        Self { agent: HeaderValue::from_static(name), ..self.clone() }
    }

    /// Gives all clones of a remote client new servers or credentials, such as a renewed certificate.
    pub async fn reconfigure(&self, config: &ConnectConfig) -> Result<(), Error> {
        match &self.remote {
            Some(remote) => remote.reconfigure(config).await,
            None => Ok(()),
        }
    }

    /// The cluster's authority, known after the first request with a bootstrap token.
    pub fn pinned_ca(&self) -> Option<CertificateDer<'static>> {
        self.remote.as_ref()?.pinned_ca()
    }
}

// === verbs ===

impl Client {
    /// Reads an object.
    pub async fn get<T: Resource>(&self, namespace: &str, name: &str) -> Result<T, Error> {
        self.get_as(&T::api_resource(), namespace, name).await
    }

    /// Reads an object of any resource, into any type.
    pub async fn get_as<T: DeserializeOwned>(
        &self,
        resource: &ApiResource,
        namespace: &str,
        name: &str,
    ) -> Result<T, Error> {
        self.call(Method::GET, resource.object_path(namespace, name, None), None).await
    }

    /// Lists objects, page by page; all namespaces if `namespace` is empty.
    pub async fn list<T: Resource>(&self, namespace: &str, options: &ListOptions) -> Result<List<T>, Error> {
        self.list_as(&T::api_resource(), namespace, options, false).await
    }

    /// Lists objects of any resource; with `metadata_only` the server sends no more than that.
    pub async fn list_as<T: HasMeta>(
        &self,
        resource: &ApiResource,
        namespace: &str,
        options: &ListOptions,
        metadata_only: bool,
    ) -> Result<List<T>, Error> {
        let mut list = List { items: Vec::new(), revision: 0 };
        let mut next: Option<String> = None;
        loop {
            let mut query = Query::new(resource.collection_path(namespace));
            options.push(&mut query);
            query.push("limit", PAGE_LIMIT);
            if let Some(next) = &next {
                query.push("continue", next);
            }
            let path = query.finish();
            let accept = if metadata_only { METADATA_LIST_JSON } else { JSON };
            let body = self.fetch(Method::GET, &path, None, accept).await?;
            let page: Page<'_> = decode(&path, &body)?;
            list.revision = page.metadata.resource_version.parse().unwrap_or_default();
            list.items.extend(page.items.iter().flatten().filter_map(|item| decode_item(&path, item)));
            next = page.metadata.next.filter(|next| !next.is_empty());
            if next.is_none() {
                return Ok(list);
            }
        }
    }

    /// Creates an object; returns it as the server stored it.
    pub async fn create<T: Resource>(&self, namespace: &str, object: &impl Serialize) -> Result<T, Error> {
        let path = T::api_resource().collection_path(namespace);
        self.call(Method::POST, path, Some((encode(object)?, JSON))).await
    }

    /// Posts to a subresource: `binding`, `token`, `eviction`, `approval`...
    pub async fn create_subresource<T: Resource, R: DeserializeOwned>(
        &self,
        namespace: &str,
        name: &str,
        subresource: &str,
        object: &impl Serialize,
    ) -> Result<R, Error> {
        let path = T::api_resource().object_path(namespace, name, Some(subresource));
        self.call(Method::POST, path, Some((encode(object)?, JSON))).await
    }

    /// Replaces an object, or the subresource of it that is named.
    pub async fn replace<T: Resource>(
        &self,
        namespace: &str,
        name: &str,
        subresource: Option<&str>,
        object: &impl Serialize,
    ) -> Result<T, Error> {
        let path = T::api_resource().object_path(namespace, name, subresource);
        self.call(Method::PUT, path, Some((encode(object)?, JSON))).await
    }

    /// Replaces an object's status.
    pub async fn replace_status<T: Resource>(
        &self,
        namespace: &str,
        name: &str,
        object: &impl Serialize,
    ) -> Result<T, Error> {
        self.replace(namespace, name, Some("status"), object).await
    }

    /// Patches an object, or the subresource of it that is named.
    pub async fn patch<T: Resource>(
        &self,
        patch: Patch<'_>,
        namespace: &str,
        name: &str,
        subresource: Option<&str>,
        body: &impl Serialize,
    ) -> Result<T, Error> {
        self.patch_as(&T::api_resource(), patch, namespace, name, subresource, body).await
    }

    /// Patches an object of any resource.
    pub async fn patch_as<T: DeserializeOwned>(
        &self,
        resource: &ApiResource,
        patch: Patch<'_>,
        namespace: &str,
        name: &str,
        subresource: Option<&str>,
        body: &impl Serialize,
    ) -> Result<T, Error> {
        let mut query = Query::new(resource.object_path(namespace, name, subresource));
        if let Patch::Apply { manager, force } = patch {
            query.push("fieldManager", manager);
            query.push("force", if force { "true" } else { "false" });
        }
        self.call(Method::PATCH, query.finish(), Some((encode(body)?, patch.content_type()))).await
    }

    /// Begins an object's deletion.
    pub async fn delete<T: Resource>(
        &self,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<(), Error> {
        self.delete_as(&T::api_resource(), namespace, name, options).await
    }

    /// Begins the deletion of an object of any resource.
    pub async fn delete_as(
        &self,
        resource: &ApiResource,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<(), Error> {
        let path = resource.object_path(namespace, name, None);
        self.fetch(Method::DELETE, &path, Some((encode(options)?, JSON)), JSON).await.map(drop)
    }

    /// Begins the deletion of all objects of a collection.
    pub async fn delete_collection(
        &self,
        resource: &ApiResource,
        namespace: &str,
        options: &DeleteOptions,
    ) -> Result<(), Error> {
        let path = resource.collection_path(namespace);
        self.fetch(Method::DELETE, &path, Some((encode(options)?, JSON)), JSON).await.map(drop)
    }

    /// Watches a collection for what comes after `from`.
    pub async fn watch<T: Resource>(
        &self,
        namespace: &str,
        options: &ListOptions,
        from: Revision,
    ) -> Result<Watch<T>, Error> {
        self.watch_as(&T::api_resource(), namespace, options, from, None, false).await
    }

    /// Watches any collection; the server ends the watch after `timeout`, if there is one.
    pub async fn watch_as<T: HasMeta>(
        &self,
        resource: &ApiResource,
        namespace: &str,
        options: &ListOptions,
        from: Revision,
        timeout: Option<Duration>,
        metadata_only: bool,
    ) -> Result<Watch<T>, Error> {
        let mut query = Query::new(resource.collection_path(namespace));
        query.push("watch", "1");
        options.push(&mut query);
        query.push("resourceVersion", &from.to_string());
        query.push("allowWatchBookmarks", "true");
        if let Some(timeout) = timeout {
            query.push("timeoutSeconds", &timeout.as_secs().max(1).to_string());
        }
        let path = query.finish();
        let accept = if metadata_only { METADATA_JSON } else { JSON };
        // Only the head of the answer has a deadline; the events come when they come.
        let response = within(&path, &Method::GET, self.send(Method::GET, &path, None, accept)).await?;
        Ok(Watch::new(path, response.into_body()))
    }

    /// Any request: the ways into the server that are not resources.
    pub async fn raw(&self, request: Request<Body>) -> Result<Response<ResponseBody>, Error> {
        self.transport.send(request).await
    }

    /// Reads any path into any type.
    pub async fn get_path<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.call(Method::GET, path.to_owned(), None).await
    }

    // === one request ===

    async fn call<R: DeserializeOwned>(
        &self,
        method: Method,
        path: String,
        body: Option<(Bytes, &'static str)>,
    ) -> Result<R, Error> {
        let bytes = self.fetch(method, &path, body, JSON).await?;
        decode(&path, &bytes)
    }

    async fn fetch(
        &self,
        method: Method,
        path: &str,
        body: Option<(Bytes, &'static str)>,
        accept: &'static str,
    ) -> Result<Bytes, Error> {
        within(path, &method, async {
            let response = self.send(method.clone(), path, body, accept).await?;
            collect(path, response.into_body()).await
        })
        .await
    }

    /// Sends and returns the response if it is a success; else reads the server's refusal.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<(Bytes, &'static str)>,
        accept: &'static str,
    ) -> Result<Response<ResponseBody>, Error> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header(ACCEPT, accept)
            .header(USER_AGENT, &self.agent);
        let body = match body {
            Some((bytes, content_type)) => {
                request = request.header(CONTENT_TYPE, content_type);
                Body::Full(bytes)
            }
            None => Body::empty(),
        };
        let request = request
            .body(body)
            .map_err(|error| Error::Request { subject: path.to_owned(), reason: error.to_string() })?;
        let response = self.transport.send(request).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let code = response.status();
        let body = collect(path, response.into_body()).await?;
        Err(refusal(code, path, &body))
    }
}

impl ListOptions {
    fn push(&self, query: &mut Query) {
        query.push_some("labelSelector", &self.labels);
        query.push_some("fieldSelector", &self.fields);
    }
}

async fn within<T>(
    path: &str,
    method: &Method,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    tokio::time::timeout(REQUEST_TIMEOUT, work).await.unwrap_or_else(|_| {
        Err(Error::Timeout { request: format!("{method} {path}"), seconds: REQUEST_TIMEOUT.as_secs() })
    })
}

async fn collect(path: &str, body: ResponseBody) -> Result<Bytes, Error> {
    let collected = body.collect().await.map_err(|source| Error::Transport {
        server: path.to_owned(),
        reason: "the answer broke off".into(),
        source: Some(source),
    })?;
    Ok(collected.to_bytes())
}

/// Servers answer with a Status; proxies and panics between us do not.
fn refusal(code: StatusCode, path: &str, body: &[u8]) -> Error {
    let mut status: Status = serde_json::from_slice(body).unwrap_or_default();
    status.code = code.as_u16();
    if status.message.is_empty() {
        let text: String = String::from_utf8_lossy(body).chars().take(200).collect();
        status.message = format!("{code} for {path} {text}").trim_end().to_owned();
    }
    Error::Api(status)
}

fn encode(object: &impl Serialize) -> Result<Bytes, Error> {
    let encoded = serde_json::to_vec(object);
    encoded.map(Bytes::from).map_err(|source| Error::Json { subject: "the object to be sent".into(), source })
}

fn decode<'a, R: Deserialize<'a>>(path: &str, bytes: &'a [u8]) -> Result<R, Error> {
    serde_json::from_slice(bytes)
        .map_err(|source| Error::Json { subject: format!("the answer to {path}"), source })
}

/// One object that does not fit its projection must not hide all others.
pub(crate) fn decode_item<T: DeserializeOwned>(path: &str, item: &RawValue) -> Option<T> {
    serde_json::from_str(item.get())
        .inspect_err(|error| tracing::warn!(path, %error, "an object is skipped: it cannot be read"))
        .ok()
}
