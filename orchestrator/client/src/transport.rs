//! How requests get to the server: through a service in process, or over one connection.
use std::future::Future;

use api::UserInfo;
use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use http::{Request, Response};
use http_body_util::BodyExt;
use tower::{Service, ServiceExt};

use crate::{Body, BoxError, Error, ResponseBody};

pub(crate) mod http2;

/// Sends one request. The response's body may go on for as long as the caller reads.
pub(crate) trait Transport: Send + Sync + 'static {
    fn send(&self, request: Request<Body>) -> BoxFuture<'static, Result<Response<ResponseBody>, Error>>;
}

/// A server in this process: no socket, no TLS. The caller's identity travels in the request's extensions.
pub(crate) struct InProcess<S> {
    pub(crate) service: S,
    pub(crate) user: UserInfo,
}

impl<S, B> Transport for InProcess<S>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + Sync + 'static,
    S::Future: Future + Send,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn send(&self, mut request: Request<Body>) -> BoxFuture<'static, Result<Response<ResponseBody>, Error>> {
        request.extensions_mut().insert(self.user.clone());
        let service = self.service.clone();
        async move {
            let response = service.oneshot(request).await.map_err(|error| Error::Transport {
                server: "this process".into(),
                reason: "it does not answer".into(),
                source: Some(error.into()),
            })?;
            Ok(response.map(|body| body.map_err(Into::into).boxed_unsync()))
        }
        .boxed()
    }
}
