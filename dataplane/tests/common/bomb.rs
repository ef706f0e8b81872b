//! Components that are hard on a compiler: a real worker, and behind it a module that nothing instantiates.

/// Takes CPU: as many functions as a module may well have.
pub fn many_functions(worker: &[u8]) -> Vec<u8> {
    with_module(worker, 100_000, 15)
}

/// Takes memory: one function, nearly as long as the compiler takes one.
pub fn one_function(worker: &[u8]) -> Vec<u8> {
    with_module(worker, 1, 500_000)
}

/// Each function computes `x = x * x + 5` so many times.
fn with_module(worker: &[u8], functions: usize, steps: usize) -> Vec<u8> {
    let step: [u8; 10] = [0x20, 0, 0x20, 0, 0x7e, 0x42, 5, 0x7c, 0x21, 0];
    let body = [&[0][..], &step.repeat(steps), &[0x20, 0, 0x0b]].concat();
    let body = [leb(body.len()), body].concat();
    let types = [1, 0x60, 1, 0x7e, 1, 0x7e];
    let declared = [leb(functions), vec![0; functions]].concat();
    let code = [leb(functions), body.repeat(functions)].concat();
    let module = [&b"\0asm\x01\0\0\0"[..], &section(1, &types), &section(3, &declared), &section(10, &code)].concat();
    [worker, &section(1, &module)].concat()
}

fn section(id: u8, content: &[u8]) -> Vec<u8> {
    [&[id][..], &leb(content.len()), content].concat()
}

fn leb(mut number: usize) -> Vec<u8> {
    let mut bytes = vec![];
    loop {
        let low = (number & 0x7f) as u8;
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}
