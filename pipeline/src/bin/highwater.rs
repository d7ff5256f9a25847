//! The tool: see [`highwater::tool`].

fn main() -> highwater::Exit {
    highwater::tool::main()
}
