//! REST over axum: request pipeline, watch cache, discovery, OpenAPI, authentication, admission.
