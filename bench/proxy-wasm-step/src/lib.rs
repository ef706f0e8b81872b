//! One step of a chain, as a filter of proxy-wasm: reads two headers, sets one. What `step-filter` does, for Envoy.

use proxy_wasm::{
    traits::{Context, HttpContext, RootContext},
    types::{Action, ContextType, LogLevel},
};

proxy_wasm::main! {{
    proxy_wasm::set_log_level(LogLevel::Warn);
    proxy_wasm::set_root_context(|_| -> Box<dyn RootContext> { Box::new(Root) });
}}

struct Root;

impl Context for Root {}

impl RootContext for Root {
    fn create_http_context(&self, _: u32) -> Option<Box<dyn HttpContext>> {
        Some(Box::new(Step))
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }
}

struct Step;

impl Context for Step {}

impl HttpContext for Step {
    fn on_http_request_headers(&mut self, _: usize, _: bool) -> Action {
        let last = |name| self.get_http_request_header_bytes(name).and_then(|v| v.last().copied()).unwrap_or(b'-');
        let value = [b'v', last(":authority"), last("user-agent")];
        self.set_http_request_header_bytes("x-step", Some(&value));
        Action::Continue
    }
}
