//! The rest of the chain: what a `wasi:http/middleware` imports.

use wasip3::{
    http::types::{ErrorCode, Headers, Request, Response},
    wit_future,
};

pub use wasip3;

mod bindings {
    wasip3::wit_bindgen::generate!({
        runtime_path: "::wasip3::wit_bindgen::rt",
        world: "next",
        path: "wit",
        with: { "wasi:http/types@0.3.2": wasip3::http::types },
        generate_all,
    });
}

pub use bindings::wasi::http::handler::handle;

/// The same request with these headers. Its body goes on as it is: nothing of it comes through the worker.
pub fn onward(request: Request, headers: Headers) -> Request {
    let (method, scheme) = (request.get_method(), request.get_scheme());
    let (authority, path) = (request.get_authority(), request.get_path_with_query());
    let (_processed, is_processed) = wit_future::new(|| Ok(()));
    let (body, trailers) = Request::consume_body(request, is_processed);
    let (onward, _sent) = Request::new(headers, Some(body), trailers, None);
    onward.set_method(&method).expect("a method");
    onward.set_scheme(scheme.as_ref()).expect("a scheme");
    onward.set_authority(authority.as_deref()).expect("an authority");
    onward.set_path_with_query(path.as_deref()).expect("a path");
    onward
}

/// The same response, once `edit` has seen the headers.
pub fn back(response: Response, edit: impl FnOnce(&Headers)) -> Result<Response, ErrorCode> {
    let (status, headers) = (response.get_status_code(), response.get_headers().clone());
    edit(&headers);
    let (_processed, is_processed) = wit_future::new(|| Ok(()));
    let (body, trailers) = Response::consume_body(response, is_processed);
    let (back, _sent) = Response::new(headers, Some(body), trailers);
    back.set_status_code(status).expect("a status");
    Ok(back)
}
