//! What can be said of a mail, and what is wrong with it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use highwater_operators::action::call::Planned;
use highwater_operators::guard::GuardConfig;
use highwater_operators::guard::rate::RateConfig;
use url::Url;

use super::message::{Letter, Person};
use super::{Description, Login, Mail, Security, Server};
use crate::network::Resolve;
use crate::network::dial::literal_problem;
use crate::network::opened::Opened;
use crate::network::resolve::System;
use crate::network::tls::certificates;
use crate::template::{Template, missing_lookups};

impl Mail {
    /// Mails are handed over to this server: `smtp://HOST` (STARTTLS, port 587 unless it names one) or `smtps://HOST` (TLS, port 465).
    pub fn by(server: impl AsRef<str>) -> Self {
        let (server, problems) = match Server::parse(server.as_ref()) {
            Ok(server) => (Some(server), Vec::new()),
            Err(problem) => (None, vec![problem]),
        };
        let description = Description {
            server,
            login: None,
            hello: None,
            letter: Letter::default(),
            size_max: 10 << 20,
            try_again_after: Duration::from_secs(60),
            allow_private: false,
            root_certificates: None,
            resolver: Arc::new(System),
            resolve_every: Duration::from_secs(30),
            connection_timeout: Duration::from_secs(10),
            max_connections: 4,
            idle_timeout: Duration::from_secs(60),
            guard: GuardConfig::default(),
            problems,
        };
        Mail { description, open: Opened::default() }
    }

    fn with(mut self, change: impl FnOnce(&mut Description)) -> Self {
        change(&mut self.description);
        self.open = Opened::default();
        self
    }

    /// A part of the letter, of a template.
    fn part(self, what: &str, text: &str, set: impl FnOnce(&mut Letter, Template)) -> Self {
        self.with(|description| match Template::parse(text) {
            Ok(template) => set(&mut description.letter, template),
            Err(problem) => description.problems.push(format!("{what}: {problem}")),
        })
    }

    fn person(self, what: &str, text: &str, set: impl FnOnce(&mut Letter, Person)) -> Self {
        self.with(|description| match Person::parse(text) {
            Ok(person) => set(&mut description.letter, person),
            Err(problem) => description.problems.push(format!("{what}: {problem}")),
        })
    }

    /// User and password at the server. They are never shown, and never sent in the clear.
    pub fn login(self, user: impl Into<String>, password: impl Into<String>) -> Self {
        let login = Login { user: user.into(), password: password.into() };
        self.with(|description| description.login = Some(login))
    }

    /// Whom it is from: `shop@shop.example` or `The shop <shop@shop.example>`. Places may stand in it, as in all that follows.
    pub fn from(self, person: &str) -> Self {
        self.person("from", person, |letter, person| letter.from = Some(person))
    }

    /// Whom it is to: one address, or a name and an address. Said again, it is to several.
    pub fn to(self, person: &str) -> Self {
        self.person("to", person, |letter, person| letter.to.push(person))
    }

    /// Who gets a copy, seen by all.
    pub fn cc(self, person: &str) -> Self {
        self.person("cc", person, |letter, person| letter.cc.push(person))
    }

    /// Where answers go. Default: to whom it is from.
    pub fn reply_to(self, person: &str) -> Self {
        self.person("reply_to", person, |letter, person| letter.reply_to = Some(person))
    }

    /// The subject. Line breaks in it become blanks.
    pub fn subject(self, subject: &str) -> Self {
        self.part("subject", subject, |letter, template| letter.subject = Some(template))
    }

    /// The body as plain text.
    pub fn text(self, text: &str) -> Self {
        self.part("text", text, |letter, template| letter.text = Some(template))
    }

    /// The body as HTML, in which values are escaped. With a [`text`](Self::text) too, a reader shows either.
    pub fn html(self, html: &str) -> Self {
        self.part("html", html, |letter, template| letter.html = Some(template))
    }

    /// The name by which we greet the server. Default: our address.
    pub fn hello(self, name: impl Into<String>) -> Self {
        self.with(|description| description.hello = Some(name.into()))
    }

    /// No TLS: for a server on the same machine. Refused with a [`login`](Self::login).
    pub fn without_tls(self) -> Self {
        self.with(|description| match &mut description.server {
            Some(server) if server.security == Security::Tls => {
                description.problems.push("smtps:// is TLS; without_tls() goes with smtp://".to_owned());
            }
            Some(server) => server.security = Security::None,
            None => {}
        })
    }

    /// The largest mail that is sent, as it is sent; a larger one is parked. Default: 10 MiB.
    pub fn size_max(self, bytes: usize) -> Self {
        self.with(|description| description.size_max = bytes)
    }

    /// When a mail is tried again of which the server said *not now* (4xx), as it does to strangers. Default: 60 s.
    pub fn try_again_after(self, wait: Duration) -> Self {
        self.with(|description| description.try_again_after = wait)
    }

    /// Lets it go to addresses that are not public. The setting `allow_private` does the same.
    pub fn allow_private(self) -> Self {
        self.with(|description| description.allow_private = true)
    }

    /// Certificates to check the server's one by, in PEM, instead of those that the machine trusts.
    pub fn root_certificates(self, file: impl Into<PathBuf>) -> Self {
        self.with(|description| description.root_certificates = Some(file.into()))
    }

    /// Connections at most. Default: 4.
    pub fn max_connections(self, connections: usize) -> Self {
        self.with(|description| description.max_connections = connections.max(1))
    }

    /// How long an idle connection is kept. Default: 60 s.
    pub fn idle_timeout(self, timeout: Duration) -> Self {
        self.with(|description| description.idle_timeout = timeout)
    }

    /// How long connecting, greeting and logging in may take, for each address. Default: 10 s.
    pub fn connection_timeout(self, timeout: Duration) -> Self {
        self.with(|description| description.connection_timeout = timeout)
    }

    /// How long the addresses of the host are used before they are asked for again. Default: 30 s.
    pub fn resolve_every(self, every: Duration) -> Self {
        self.with(|description| description.resolve_every = every)
    }

    /// Finds the addresses of the host in another way than the machine's. What it finds is checked like any other.
    pub fn resolved_by(self, resolver: impl Resolve) -> Self {
        self.with(|description| description.resolver = Arc::new(resolver))
    }

    /// Breaker, retry budget, rate, level of calls and timeout.
    pub fn guard(self, config: GuardConfig) -> Self {
        self.with(|description| description.guard = config)
    }

    /// Mails per second, with so many at once after a rest. Default: no bound.
    pub fn rate(self, per_second: f64, burst: u32) -> Self {
        let burst = f64::from(burst.max(1));
        self.with(|description| description.guard.rate = RateConfig { per_second: Some(per_second), burst })
    }

    /// Parks changes, instead of waiting, once nothing has succeeded for so long and the breaker is open. Default: it waits.
    pub fn give_up_after(self, time: Duration) -> Self {
        self.with(|description| description.guard.give_up_after = Some(time))
    }

    pub(super) fn description(&self) -> &Description {
        &self.description
    }
}

impl Server {
    fn parse(text: &str) -> Result<Self, String> {
        // None of these may repeat the URL: it may hold secrets.
        let (scheme, rest) = text.split_once("://").ok_or("the server has no scheme; it begins with smtp:// or smtps://")?;
        let (security, usual) = match scheme {
            "smtp" => (Security::StartTls, 587),
            "smtps" => (Security::Tls, 465),
            _ => return Err("the server begins neither with smtp:// nor with smtps://".to_owned()),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains('@') {
            return Err("the server's URL holds a user or a password; give them by .login(user, password)".to_owned());
        }
        if authority.contains(['/', '?', '#', '{']) {
            return Err("the server's URL is a scheme, a host and perhaps a port; nothing follows them".to_owned());
        }
        // Hosts are read as browsers read them: numbers of all kinds are addresses.
        let parsed =
            Url::parse(&format!("http://{authority}/")).map_err(|error| format!("the server cannot be read: {error}"))?;
        let host = parsed.host().ok_or("the server's URL has no host")?.to_owned();
        let says_port = authority.rsplit_once(':').is_some_and(|(_, port)| !port.is_empty() && !port.ends_with(']'));
        let port = if says_port { parsed.port_or_known_default() } else { None };
        Ok(Server { host, port: port.unwrap_or(usual), security })
    }
}

impl Description {
    /// Where it goes, without secrets.
    pub(super) fn shown(&self) -> String {
        self.server.as_ref().map_or_else(|| "mail to nowhere".to_owned(), |server| format!("mail by {server}"))
    }

    /// What is wrong with it, a sentence each.
    pub(super) fn check(&self, planned: &Planned<'_>) -> Vec<String> {
        let mut problems = self.problems.clone();
        problems.extend(self.letter.problems());
        problems.extend(missing_lookups(self.letter.templates(), planned));
        if self.login.as_ref().is_some_and(|login| login.user.is_empty() || login.password.is_empty()) {
            problems.push("its user or password is empty (is the environment variable set?)".to_owned());
        }
        if let Some(name) =
            self.hello.as_ref().filter(|name| name.is_empty() || name.contains(|c: char| c.is_control() || c == ' '))
        {
            problems.push(format!("hello: {name:?} is no name of a machine"));
        }
        if let Some(server) = &self.server {
            problems.extend(literal_problem(&server.host, &server.to_string(), self.allow_private, planned));
            match server.security {
                Security::None if self.login.is_some() => {
                    problems
                        .push("without_tls() would send the password in the clear: leave out one of it and login(..)".to_owned());
                }
                Security::None => {}
                Security::Tls | Security::StartTls => problems.extend(certificates(self.root_certificates.as_deref()).err()),
            }
        }
        problems
    }
}
