//! The web page: three files that are part of the program and hold nothing of the cluster. Served to anybody; what it shows
//! it asks the API for, with the token of whoever looks. The browser is told to load nothing from elsewhere.

use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::Method;
use hyper::header::{
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};

/// Paths, their types and contents.
const FILES: [(&str, &str, &str); 3] = [
    (
        "/",
        "text/html; charset=utf-8",
        include_str!("../../web/index.html"),
    ),
    (
        "/web/app.js",
        "text/javascript; charset=utf-8",
        include_str!("../../web/app.js"),
    ),
    (
        "/web/style.css",
        "text/css; charset=utf-8",
        include_str!("../../web/style.css"),
    ),
];
/// What the page may do.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Whether a request is for one of the files.
pub(super) fn is_page(method: &Method, path: &str) -> bool {
    (method == Method::GET || method == Method::HEAD) && FILES.iter().any(|(file, _, _)| *file == path)
}

/// The files at their paths.
pub(super) fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES
        .into_iter()
        .fold(Router::new(), |router, (path, form, text)| {
            router.route(path, get(move || std::future::ready(file(form, text))))
        })
}

fn file(form: &'static str, text: &'static str) -> Response {
    let headers = [
        (CONTENT_TYPE, form),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
    ];
    (headers, text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_needs_nothing_from_elsewhere() {
        for (path, _, text) in FILES {
            for foreign in ["http://", "https://", "//cdn", "@import", "innerHTML", "eval("] {
                let own = text.replace("http://www.w3.org/2000/svg", "");
                assert!(!own.contains(foreign), "{path} has {foreign}");
            }
        }
    }

    #[test]
    fn only_the_files_are_for_anybody() {
        assert!(is_page(&Method::GET, "/") && is_page(&Method::HEAD, "/web/app.js"));
        for path in ["/v1/status", "/metrics", "/web/", "/web/../v1/status", "//"] {
            assert!(!is_page(&Method::GET, path), "{path}");
        }
        assert!(!is_page(&Method::POST, "/"));
    }
}
