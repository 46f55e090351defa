//! The empty handler: axum, a route that says what validation says, and nothing else.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
};

use axum::{Router, routing::get};

/// Makes this binary the server.
pub const WORD: &str = "empty-server";

/// Serves until it is ended; the first line says where.
pub fn serve() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let say = || async { ([("content-type", "application/json")], r#"{"msg":"Token is valid"}"#) };
        let router = Router::new()
            .route("/api/v1/auth_token/validation", get(say))
            .route("/api/v1/users/{id}/combined_permissions/validation", get(say))
            .route("/auth_request", get(say));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        println!("{}", listener.local_addr().unwrap());
        let listener = axum::serve::ListenerExt::tap_io(listener, |stream| {
            let _ = stream.set_nodelay(true);
        });
        axum::serve(listener, router).await.unwrap();
    });
}

/// A process with the empty handler.
pub struct Empty {
    child: Child,
    pub address: SocketAddr,
}

impl Empty {
    pub fn start() -> Self {
        let binary = std::env::current_exe().unwrap();
        let mut child = Command::new(binary).arg(WORD).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, address: line.trim().parse().unwrap() }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Empty {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
