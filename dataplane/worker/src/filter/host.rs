//! The functions that guests call.

use wasmtime::{Result, component::Resource};

use super::{
    bindings::{
        RequestHandle, ResponseHandle,
        sluice::worker::{
            notes, state,
            types::{self, BodyError},
        },
    },
    held::State,
};

type Request = Resource<RequestHandle>;
type Response = Resource<ResponseHandle>;

fn bytes(value: &http::HeaderValue) -> Vec<u8> {
    value.as_bytes().to_vec()
}

impl types::Host for State {}

impl types::HostRequest for State {
    fn method(&mut self, _: Request) -> Result<String> {
        Ok(self.request()?.method().to_owned())
    }

    fn set_method(&mut self, _: Request, method: String) -> Result<()> {
        Ok(self.request()?.set_method(&method)?)
    }

    fn scheme(&mut self, _: Request) -> Result<String> {
        let scheme = if self.exchange()?.is_tls { "https" } else { "http" };
        Ok(scheme.to_owned())
    }

    fn authority(&mut self, _: Request) -> Result<String> {
        Ok(self.request()?.authority().to_owned())
    }

    fn set_authority(&mut self, _: Request, authority: String) -> Result<()> {
        let spelling = self.exchange()?.spelling;
        Ok(self.request()?.set_authority(&authority, spelling)?)
    }

    fn path_with_query(&mut self, _: Request) -> Result<String> {
        Ok(self.request()?.path().to_owned())
    }

    fn set_path_with_query(&mut self, _: Request, path: String) -> Result<()> {
        let spelling = self.exchange()?.spelling;
        Ok(self.request()?.set_path(&path, spelling)?)
    }

    fn upstreams(&mut self, _: Request) -> Result<Vec<String>> {
        Ok(self.exchange()?.upstreams.to_vec())
    }

    fn set_upstream(&mut self, _: Request, name: String) -> Result<()> {
        let exchange = self.exchange()?.clone();
        Ok(self.request()?.set_upstream(&name, &exchange.upstreams)?)
    }

    fn client_address(&mut self, _: Request) -> Result<String> {
        Ok(self.exchange()?.client.to_string())
    }

    fn header(&mut self, _: Request, name: String) -> Result<Option<Vec<u8>>> {
        let request = self.request()?;
        Ok(request.edits.first(request.headers(), &name).map(bytes))
    }

    fn header_values(&mut self, _: Request, name: String) -> Result<Vec<Vec<u8>>> {
        let request = self.request()?;
        Ok(request.edits.all(request.headers(), &name).into_iter().map(bytes).collect())
    }

    fn headers(&mut self, _: Request) -> Result<Vec<(String, Vec<u8>)>> {
        let request = self.request()?;
        Ok(request.edits.list(request.headers()))
    }

    fn set_header(&mut self, _: Request, name: String, value: Vec<u8>) -> Result<()> {
        Ok(self.request()?.edits.set(&name, value)?)
    }

    fn append_header(&mut self, _: Request, name: String, value: Vec<u8>) -> Result<()> {
        Ok(self.request()?.edits.append(&name, value)?)
    }

    fn remove_header(&mut self, _: Request, name: String) -> Result<()> {
        Ok(self.request()?.edits.remove(&name)?)
    }

    async fn body(&mut self, _: Request, limit: u32) -> Result<Result<Vec<u8>, BodyError>> {
        let meter = self.meter.clone();
        Ok(self.request()?.body.whole(limit, &meter).await)
    }

    fn drop(&mut self, _: Request) -> Result<()> {
        Ok(())
    }
}

impl types::HostResponse for State {
    fn status(&mut self, _: Response) -> Result<u16> {
        Ok(self.response()?.status())
    }

    fn set_status(&mut self, _: Response, status: u16) -> Result<()> {
        Ok(self.response()?.set_status(status)?)
    }

    fn header(&mut self, _: Response, name: String) -> Result<Option<Vec<u8>>> {
        let response = self.response()?;
        Ok(response.edits.first(response.headers(), &name).map(bytes))
    }

    fn header_values(&mut self, _: Response, name: String) -> Result<Vec<Vec<u8>>> {
        let response = self.response()?;
        Ok(response.edits.all(response.headers(), &name).into_iter().map(bytes).collect())
    }

    fn headers(&mut self, _: Response) -> Result<Vec<(String, Vec<u8>)>> {
        let response = self.response()?;
        Ok(response.edits.list(response.headers()))
    }

    fn set_header(&mut self, _: Response, name: String, value: Vec<u8>) -> Result<()> {
        Ok(self.response()?.edits.set(&name, value)?)
    }

    fn append_header(&mut self, _: Response, name: String, value: Vec<u8>) -> Result<()> {
        Ok(self.response()?.edits.append(&name, value)?)
    }

    fn remove_header(&mut self, _: Response, name: String) -> Result<()> {
        Ok(self.response()?.edits.remove(&name)?)
    }

    async fn body(&mut self, _: Response, limit: u32) -> Result<Result<Vec<u8>, BodyError>> {
        let meter = self.meter.clone();
        let response = self.response()?;
        if let Some(replaced) = response.replaced() {
            let fits = u64::from(limit) >= replaced.len() as u64;
            return Ok(if fits { Ok(replaced.to_vec()) } else { Err(BodyError::TooLarge) });
        }
        Ok(response.body.whole(limit, &meter).await)
    }

    fn set_body(&mut self, _: Response, body: Vec<u8>) -> Result<()> {
        Ok(self.response()?.set_body(body)?)
    }

    fn request_method(&mut self, _: Response) -> Result<String> {
        Ok(self.exchange()?.method.as_str().to_owned())
    }

    fn request_authority(&mut self, _: Response) -> Result<String> {
        Ok(self.exchange()?.authority.as_str().to_owned())
    }

    fn request_path_with_query(&mut self, _: Response) -> Result<String> {
        Ok(self.exchange()?.path.as_str().to_owned())
    }

    fn drop(&mut self, _: Response) -> Result<()> {
        Ok(())
    }
}

impl notes::Host for State {
    fn get(&mut self, name: String) -> Result<Option<Vec<u8>>> {
        Ok(self.exchange()?.notes.get(&self.written, &name))
    }

    fn set(&mut self, key: String, value: Vec<u8>) -> Result<()> {
        let exchange = self.exchange()?.clone();
        Ok(exchange.notes.set(&mut self.written, &self.identity.unit, &key, value)?)
    }
}

impl state::Host for State {
    fn get(&mut self) -> Result<Vec<u8>> {
        Ok(self.kept.clone())
    }

    fn set(&mut self, value: Vec<u8>) -> Result<()> {
        Ok(self.keep(value)?)
    }
}
