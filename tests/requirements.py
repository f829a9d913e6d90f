"""The behaviours that mcpgw promises, by id: what, and where the promise comes from.

Checked both ways: a test may claim only what stands here (conftest.py), and everything here is claimed by a test
(test_requirements.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Requirement(NamedTuple):
    promise: str
    source: str


REQUIREMENTS: Mapping[str, Requirement] = {
    "budget:size": Requirement("modules, functions and parameter lists stay small", "contributing"),
    "budget:imports": Requirement("imports stand at the top of a module", "contributing"),
    "pipeline:schedules": Requirement(
        "a kill, a revocation, an activation or a crash at any await breaks no invariant", "architecture: ports"
    ),
    "pipeline:rejudge": Requirement(
        "an older epoch at the gate means: judge again, three worlds at most", "architecture: the gate"
    ),
    "budget:broad-except": Requirement("only the outermost places catch every exception", "contributing"),
    "store:records": Requirement("of all who take or replace a record of `auth`, one does", "issue 4"),
    # Secrets at rest, and credentials towards upstreams
    "vault:sealed": Requirement("tokens and secrets are sealed at rest, each with a key of its own", "issue 4"),
    "vault:bound": Requirement("a ciphertext opens only in the record that it was sealed for", "issue 4"),
    "vault:rotation": Requirement("the vault's key is rotated while calls go on", "issue 4"),
    "vault:named": Requirement("a named secret is set, never shown, and sent to its own origins alone", "issue 4"),
    "vault:keys": Requirement("no start without the keys that secrets are sealed with", "issue 4"),
    "registry:authorization": Requirement(
        "how the gateway proves itself is published with a version, for its URL alone", "issue 4"
    ),
    "broker:dispatch": Requirement("a version's own mode decides what its server is sent, or nothing is", "issue 4"),
    "broker:static": Requirement("secret headers come by reference, and follow a change of the secret", "issue 4"),
    "broker:client-credentials": Requirement("the gateway's own token is for the very server", "RFC 6749 §4.4, 8707"),
    "broker:exchange": Requirement("each caller's token is had for what stands for them", "RFC 8693, ID-JAG"),
    "broker:assertion": Requirement("a short-lived JWT of ours says who calls, for one audience", "issue 4"),
    "broker:at-hand": Requirement("a live token costs no waiting; of all workers one asks for a new one", "issue 4"),
    "broker:refused": Requirement("a refused credential is not sent again, and no call is repeated", "issue 4"),
    "broker:renewed": Requirement("a renewed credential goes on in the session of its holder", "issue 4"),
    "broker:own-credential": Requirement("nobody ever gets the credential of another", "issue 4, MCP authorization"),
    "broker:never-inbound": Requirement("nothing that a caller showed reaches a server", "security: token passthrough"),
    "broker:endings": Requirement("tokens go with their holder, their server and its authorization", "issue 4"),
    "broker:sealed": Requirement("no token or secret towards an upstream is in a file in clear", "issue 4"),
    # What people see of our authorization server, and who they are
    "front:redirect-uris": Requirement(
        "an answer goes to the very URI that was registered; on loopback to any port of it", "RFC 8252, OAuth 2.1 2.3.1"
    ),
    "front:passwords": Requirement("passwords are Argon2id hashes, made and checked a few at a time", "issue 4: 2"),
    "front:unknown-user": Requirement(
        "nobody learns whether a user exists: one answer, after one span of time", "issue 4: bad input"
    ),
    "front:backoff": Requirement("who guesses at a password waits, alone", "security 1.2 #32"),
    "front:sessions": Requirement(
        "a session is a random cookie that ends at once with its account, its team or a revocation", "issue 4: 4"
    ),
    "front:csrf": Requirement(
        "a form counts once, from our own page, in the browser that it was made for", "mcp 4: confused deputy"
    ),
    "front:documents": Requirement(
        "a client that is a URL is what the document there says, if it says that URL itself", "draft CIMD, mcp 3"
    ),
    "front:document-cache": Requirement(
        "documents are kept by the rules of HTTP within bounds, and fetched so often at most", "RFC 9111, security 1.2"
    ),
    "front:clients": Requirement("a revoked or killed client is nobody, be it a row or a document", "issue 4: 6"),
    "front:registration": Requirement(
        "a client that registers itself may do nothing until a user agrees; off unless configured", "RFC 7591"
    ),
    "front:registration-errors": Requirement("bad metadata are refused with the RFC's own error", "RFC 7591 3.2.2"),
    "front:registration-management": Requirement(
        "a client manages its own registration with its own token, and no other", "RFC 7592"
    ),
    "front:registration-bounds": Requirement("registrations are bounded, in all and in time", "security 1.2"),
    "front:provider": Requirement(
        "whom an OpenID provider names has an account here, as its claims say now", "OpenID Connect Core"
    ),
    "front:provider-lies": Requirement(
        "metadata and ID tokens of a provider that are not so sign nobody in", "OpenID Connect Core 3.1.3.7, RFC 8725"
    ),
    "front:provider-state": Requirement(
        "a provider's answer counts once, in the browser that asked, from the provider that was asked",
        "RFC 9700, RFC 9207",
    ),
    "front:sign-in": Requirement("a user signs in, reads what is asked, and allows it or not", "issue 4: 2"),
    "front:session-fixation": Requirement("a sign-in always begins a new session", "OWASP ASVS 3.2"),
    "front:consent": Requirement(
        "consent is remembered for one client, redirect URI, resource and set of scopes; never for who knows whom",
        "mcp 4: confused deputy, RFC 8252 8.6",
    ),
    "front:consent-page": Requirement(
        "the consent page names client, host, scopes and servers, warns, and shows hostile names as text", "issue 4: 2"
    ),
    "front:prompt": Requirement("a client may ask for no question, or for one more", "OpenID Connect Core 3.1.2.1"),
    "front:headers": Requirement("no page of ours is framed, kept, scripted or told about", "mcp 4, RFC 9700 4.16"),
    "front:redirects": Requirement(
        "nobody is sent to a URI that is not registered, and no page repeats what a stranger wrote", "RFC 9700 4.11"
    ),
    "front:console": Requirement("a user sees who they are, ends what they allowed, and signs out", "issue 4: 4"),
    "front:admin-session": Requirement(
        "the admin API takes a session from our own pages alone, with the roles of now", "issue 4: 4"
    ),
    "front:first-admin": Requirement("the quickstart makes a user who can sign in and administer", "issue 4: 2"),
    # Fault isolation
    "health:ejection": Requirement(
        "an upstream that has stopped answering is left alone, at no cost to others", "security: R1"
    ),
    "health:recovery": Requirement("the gateway finds out by itself that an upstream answers again", "security: R1"),
    "faults:hung-upstream": Requirement("a hung upstream costs its own callers only, and recovers", "security: R1"),
    "retries:marked": Requirement(
        "only what an administrator has marked is repeated, as calls of their own", "issue 3"
    ),
    "retries:budget": Requirement("repetitions are few, whatever fails", "issue 3"),
    "retries:first-byte": Requirement("nothing is repeated after a part of its answer has left", "issue 3"),
    "faults:slow-clients": Requirement("a thousand slow clients cost the others nothing", "security: R12"),
    "faults:cancelled-calls": Requirement("nothing is left of a cancelled call", "security: R13"),
    "faults:rubbish": Requirement("no input makes a 5xx or ends a worker", "security: R15"),
    "faults:heavy-requests": Requirement("a large request does not stop the small ones", "security: R18"),
    # A client's connection
    "connection:pieces": Requirement(
        "a request means the same in whatever pieces it arrives, and however often its head came before", "RFC 9112"
    ),
    "connection:malformed": Requirement("what is no request is refused, and nothing after it read", "security: 16"),
    "connection:deadlines": Requirement(
        "who sends or reads too slowly is let go: head, body, idle time and answers have deadlines", "security: 18"
    ),
    "connection:answers": Requirement("an answer is framed as HTTP/1.1 has it, or cut", "RFC 9112"),
    # The verdict
    "judge:order": Requirement(
        "unavailable, session, visibility, scope, kill, quarantine, policy: the first that refuses is told",
        "contract: refused calls",
    ),
    "judge:invisible-is-unknown": Requirement(
        "a name the caller may not see is answered like one that nobody has, on every method",
        "architecture: visibility first",
    ),
    "judge:killed": Requirement(
        "a killed call names its switch; draining lets what runs finish", "security: kill 4, 10"
    ),
    "judge:quarantined": Requirement("a tool that changed is refused, the others of its server go on", "issue 2: 6"),
    "judge:redaction": Requirement(
        "redacted arguments are judged again, and the judged bytes are sent", "architecture: judged is sent"
    ),
    "judge:list-is-callable": Requirement(
        "what is not listed is not callable, what is listed is not unknown", "architecture: visibility first"
    ),
    "judge:memo-per-caller": Requirement(
        "nothing that is remembered for one caller is shown to another", "security: 30"
    ),
    "judge:pure": Requirement("the same world, principal and action have the same verdict", "architecture: judge"),
    "obligations:redact": Requirement(
        "a redaction replaces the value of its RFC 6901 pointer and nothing else; one that cannot be obeyed denies",
        "contract: policy output",
    ),
    "obligations:redact-result": Requirement(
        "a result is redacted in its structure and in text that is JSON", "contract: policy output"
    ),
    "obligations:max-result": Requirement(
        "a result larger than the policy allows is withheld", "contract: policy output"
    ),
    "obligations:keep-only": Requirement("of a list only what may be seen leaves", "architecture: visibility first"),
    # Running calls
    "gate:epoch": Requirement("no gate lets a call pass that was judged in an older world", "architecture: the gate"),
    "gate:stale": Requirement(
        "what a call was permitted to send is not sent once the policy wants it otherwise", "contract: promises"
    ),
    "gate:expiry": Requirement("a credential that expires ends its call at the next gate", "architecture: streams"),
    "gate:sent": Requirement(
        "a call counts as sent exactly when it passed the gate of the transport", "contract: kill"
    ),
    "cut:waiting": Requirement("a cut call ends where it waits, with the reason", "architecture: the gate"),
    "cut:own-task": Requirement("a cut never leaks out of the call that it was meant for", "architecture: the gate"),
    "cut:swallowed": Requirement(
        "a call that swallows its cancellation still passes no gate", "architecture: the gate"
    ),
    "cut:first-stands": Requirement("the first reason to cut a call is the one it ends with", "architecture: the gate"),
    "kill:in-flight": Requirement(
        "a hard kill cuts every matching call, and names each that was handed over and is unfinished", "contract: kill"
    ),
    # The workers of one machine
    "cluster:slots": Requirement("a slot belongs to one living worker, and looking disturbs nobody", "ADR 7"),
    "cluster:epoch": Requirement(
        "the published epoch is shared by all workers and does not fall", "architecture: world"
    ),
    "cluster:publish": Requirement(
        "every worker applies a change, reached by a messenger or not", "architecture: world"
    ),
    "cluster:starting-worker": Requirement("a change waits for a worker that is starting", "architecture: world"),
    "kill:barrier": Requirement(
        "once a kill has returned no worker hands over a matching call; those under way are named", "contract: kill"
    ),
    "kill:silent-worker": Requirement(
        "a silent worker is ended and proven dead before a kill returns, or named as missing", "ADR 7"
    ),
    "world:last-known": Requirement("a start without the database is closed, killed as last known", "security: kill 6"),
    "world:rollback": Requirement("a database older than what was seen here is refused", "architecture: kill"),
    "world:swap": Requirement(
        "a worker changes worlds in one step, in order, or says that it cannot", "architecture: world"
    ),
    # Kill switches
    "kill:algebra": Requirement("a switch stops what its scope and selector say and nothing else", "security: K8"),
    "kill:preview": Requirement("a dry run shows what the kill would stop, and stops nothing", "security: K8, kill 9"),
    "kill:service": Requirement("a kill is refused whole, or answered with every acknowledgement", "contract: HTTP"),
    "kill:release": Requirement("a release needs a standing switch and a reason, and is kept", "security: kill 7"),
    # Configuration
    "config:layers": Requirement(
        "file, environment over it, flags over both; safe without any", "contract: configuration"
    ),
    "config:unknown-key": Requirement("an unknown key is refused with the nearest known one", "issue 2: bad input"),
    "config:all-problems": Requirement("every problem is told at once, with its key", "contract: check-config"),
    "config:bad-file": Requirement(
        "what cannot be read is refused with its place, never a traceback", "issue 2: bad input"
    ),
    "config:secrets": Requirement(
        "secrets stand in a configuration by reference only and are never shown", "contract: configuration"
    ),
    "config:dev-no-auth": Requirement("no authentication only on a loopback address", "contract: configuration"),
    # What the edge reads
    "json:valid": Requirement("only one JSON object, read as every other parser reads it", "security: 16"),
    "json:encoding": Requirement("only UTF-8, no byte order mark, no half characters", "security: 16"),
    "json:numbers": Requirement("no number that parsers read differently", "issue 2: 3"),
    "json:duplicates": Requirement("no key twice, at any depth, in any spelling", "issue 2: 3"),
    "json:depth": Requirement("nesting is bounded", "issue 2: 3"),
    "json:size": Requirement("keys and the length of a string are bounded", "security: reliability limits"),
    "json:linear": Requirement("a body costs no more than its length, before authentication too", "security: 14"),
    # Headers that repeat the body
    "params:compared": Requirement("a header that repeats an argument says what the argument says", "mcp 1.3"),
    "params:annotations": Requirement("annotations count only where the rules have them", "mcp 1.3"),
    "params:unknown": Requirement("a parameter header that nobody knows is passed on as it is", "mcp 1.3"),
    "params:anew": Requirement("a server gets the headers that its judged arguments have", "security 1.2 #14"),
    # Tasks
    "tasks:lifecycle": Requirement("a task is asked about under the id that its call gave, by any worker", "SEP-2663"),
    "tasks:sealed": Requirement("a server's own task ids are of no use to clients", "issue 3: 2"),
    "tasks:owner": Requirement("a task that is another's, or elsewhere, was never there", "security 1.2 #13"),
    "tasks:negotiated": Requirement("tasks are for modern clients that declare them", "SEP-2663"),
    "tasks:headers": Requirement("what asks about tasks is well-formed, in header and body", "SEP-2663, mcp 1.3"),
    "tasks:judged": Requirement("every word about a task is judged as one about its tool", "issue 3: 2"),
    "tasks:listen": Requirement("a listener is told of the tasks that it named", "SEP-2663"),
    "tasks:killed": Requirement("a killed tool has no tasks to ask about", "security: kill 5"),
    "tasks:record": Requirement("records say which task without its id", "issue 3: 2"),
    "tasks:rubbish": Requirement("what a server says of tasks it may not have is not passed on", "SEP-2663"),
    # The guard
    "guard:headers": Requirement(
        "headers are read as RFC 9110 has it: names without case, values without edges", "RFC 9110 5"
    ),
    "guard:host": Requirement("one valid Host that is ours, or no answer", "security: 14, RFC 9112 3.2"),
    "guard:target": Requirement("the request target is a plain path", "security: 14"),
    "guard:origin": Requirement("a foreign Origin is refused with 403", "mcp 1.2"),
    "guard:limits": Requirement("number and size of headers are bounded", "security: reliability limits"),
    "guard:once": Requirement("what decides about a request is said once", "mcp 1.3"),
    "guard:framing": Requirement("one request is one request for everybody", "security: 14"),
    # Identity
    "auth:roles": Requirement(
        "one role table; no credential holds agent and administrator scopes together", "contract: scopes and roles"
    ),
    "auth:admin-separation": Requirement("administrators' keys open no MCP endpoint", "security 1.2 #27"),
    "auth:api-key": Requirement("a valid key is recognised, an expired or wrong one refused", "issue 2: 5"),
    "auth:key-form": Requirement("a key has 256 random bits and a checksum", "security 1.2 #26"),
    "auth:key-storage": Requirement("digests alone are stored, the pepper is private", "security 1.2 #26"),
    "auth:key-timing": Requirement("an unknown key id costs the same time", "security 1.2 #25"),
    "auth:access-token": Requirement("an access token names its client and its endpoint", "RFC 9068"),
    "auth:token-checks": Requirement("every lie in a token is refused", "security 1.2 #8"),
    "auth:token-cache": Requirement("token facts are kept under the whole token, and bounded", "CVE-2026-35030"),
    "auth:audience": Requirement(
        "a token's audience is the exact endpoint; /mcp opens what is below, never the reverse",
        "contract: scopes and roles",
    ),
    "auth:signing-key": Requirement(
        "the signing key is a private file, its public half is published", "RFC 7517, RFC 7638"
    ),
    "auth:revocation": Requirement("a revoked credential is refused on the next call", "contract: promises"),
    "auth:deny-on-error": Requirement("any fault while a credential is read is a 401", "CVE-2026-12773"),
    "auth:challenge": Requirement(
        "401 and 403 say where to get a credential and with which scopes", "RFC 6750, RFC 9728"
    ),
    "auth:metadata": Requirement("resources and authorization server describe themselves", "RFC 9728, RFC 8414"),
    "auth:sdk-flow": Requirement("the SDK's client finds its way to a token by itself", "issue 2: how we will know"),
    "auth:grant": Requirement("the client-credentials grant issues tokens for one resource", "RFC 6749 4.4, RFC 8707"),
    "auth:grant-errors": Requirement("the token endpoint's errors are the standard's", "RFC 6749 5.2"),
    "auth:grant-backoff": Requirement("guessing at secrets is slowed down, for the guesser alone", "security 1.2 #32"),
    # Our authorization server
    "as:code": Requirement("a code becomes tokens for one user, client and endpoint", "OAuth 2.1 4.1, RFC 8707"),
    "as:code-once": Requirement("a code that comes twice ends its grant with every token", "OAuth 2.1 4.1.3"),
    "as:code-bound": Requirement(
        "a code is good with its client, redirect_uri, verifier and resource, and presented once", "RFC 9700 2.1.1"
    ),
    "as:refresh": Requirement("a refresh token is used once, narrows scopes, and has an end", "OAuth 2.1 4.3"),
    "as:refresh-reuse": Requirement("a refresh token that comes back ends its family", "RFC 9700 4.14.2"),
    "as:grant-ends": Requirement("what ends a user, a client or a grant ends its tokens at once", "issue 4: 6"),
    "as:authorize": Requirement(
        "a bad authorization request is a page or a redirect, never one to a place nobody registered",
        "RFC 6749 4.1.2.1",
    ),
    "as:iss": Requirement("answers to authorization requests name the issuer", "RFC 9207"),
    "as:admin-scopes": Requirement("no client gives itself an administrator's scopes", "security 1.2 #27"),
    "as:par": Requirement("a pushed request is checked when it is pushed, and is what is asked", "RFC 9126"),
    "as:client-authentication": Requirement(
        "a client proves itself by the one method that it is registered with", "RFC 6749 2.3, RFC 7591 2"
    ),
    "as:client-assertion": Requirement("an assertion of a client counts once, here, and not for long", "RFC 7523 2.2"),
    "as:exchange": Requirement("an exchanged token says who acts for whom, and never allows more", "RFC 8693"),
    "as:id-jag": Requirement("an identity provider's grant counts once, for its client and resource", "MCP: ID-JAG"),
    "as:revocation": Requirement("a client gives its own tokens back, in all workers at once", "RFC 7009"),
    "as:introspection": Requirement("only those who may know learn anything of a token", "RFC 7662"),
    "as:metadata": Requirement("the authorization server says what it does, and no more", "RFC 8414"),
    "as:key-rotation": Requirement("a new key signs at once, old ones verify until their tokens expire", "issue 4: 2"),
    "as:cors": Requirement("web pages of listed origins may ask, without cookies", "MCP: authorization"),
    "as:audit": Requirement("each token and each refusal is one record, without a secret", "issue 4: bad input"),
    "as:workers": Requirement("what one worker gives out, another takes, once", "issue 4: 6"),
    "as:sweep": Requirement("what has expired goes away by itself", "architecture: bounded"),
    "auth:key-life": Requirement("keys are created, rotated and revoked", "contract: commands"),
    "auth:no-escalation": Requirement("nobody grants more than they hold", "security 1.2 #27"),
    "auth:last-admin": Requirement("the last key that administers keys cannot be ended", "security 1.2 #27"),
    "auth:broker": Requirement(
        "upstreams get the operator's credentials only, at the URL they were written for", "security 1.2 #7"
    ),
    # Principals and their credentials
    "principals:accounts": Requirement("accounts of users and agents are made, shown and changed", "issue 4: 4"),
    "principals:teams": Requirement("teams are described, changed and ended", "issue 4: 4"),
    "principals:roles": Requirement("roles of the operator's own carry what they say, in one table", "issue 4: 4"),
    "principals:roles-of-account": Requirement(
        "a credential holds no more than its account, and is an agent's or an administrator's", "issue 4: 4"
    ),
    "principals:tokens": Requirement("a user's token makes the principal of their account as it is now", "issue 4: 6"),
    "principals:brokered": Requirement("who signs in elsewhere has one account, which follows them", "issue 4: 2"),
    "principals:escalation": Requirement("nobody makes or changes an account that may more", "security 1.2 #27"),
    "principals:last-admin": Requirement("the last administrator cannot be ended, whatever they are", "issue 4: 4"),
    "principals:deactivation": Requirement(
        "a deactivated account or team has lost keys, tokens, grants and sessions for good", "issue 4: 4"
    ),
    "principals:cut": Requirement(
        "running calls and silent streams of what is revoked are cut in every worker before the answer", "issue 4: 6"
    ),
    "principals:actors": Requirement("who acts for another is killed, and ends, like the other", "issue 4: 6"),
    "principals:clients": Requirement("a client's terms fit together, or it is refused", "issue 4: 4"),
    "keys:scopes": Requirement("a key holds no scope that its roles do not carry", "issue 4: 4"),
    "keys:servers": Requirement("to a key for certain servers the others do not exist", "issue 4: 4"),
    "keys:limits": Requirement("a key has its own limits of calls", "issue 4: 4"),
    "keys:overlap": Requirement("a rotated key lives on for as long as it was told, and no longer", "issue 4: 4"),
    "keys:references": Requirement("a key is for a team and a subject that are there", "issue 4: 4"),
    # The store
    "store:epoch": Requirement("no epoch is lost, also across processes", "architecture: World"),
    "store:whole": Requirement("what was committed is what is read", "ports: Store"),
    "store:snapshot-read": Requirement("a state is one snapshot of all tables", "ports: Store"),
    "store:expect": Requirement("a commit can demand the epoch that it was made for", "ports: Store"),
    "store:switch-epoch": Requirement("a switch carries the epoch of its commit", "ports: Store"),
    "store:immutable": Requirement("a published version cannot be rewritten", "domain: ServerVersion"),
    "store:atomic": Requirement("a crash leaves a transaction whole or undone", "architecture: World"),
    "store:outbox": Requirement("notes come out in the order of their commits", "architecture: World"),
    "store:durable": Requirement("a commit survives the loss of power", "architecture: Kill"),
    "store:finishes": Requirement("a commit goes to its end although its caller is gone", "architecture: Kill"),
    "store:unavailable": Requirement(
        "every failure of the database is Unavailable, and shows nothing of it", "ports: Store"
    ),
    "store:migrations": Requirement(
        "migrations and tables agree; a migration happens whole or not at all", "security R16"
    ),
    "kill:snapshot": Requirement("the local snapshot is signed and never goes back", "security K6"),
    # The registry
    "registry:digest": Requirement("the order of keys never changes a digest, everything else does", "security 1.2 #2"),
    "registry:drift": Requirement("live definitions are compared with their pins", "security 1.2 #2"),
    "registry:unpinnable": Requirement("a definition with two readings is no definition", "security 0"),
    "registry:names": Requirement("names over all servers are unique and have at most 64 characters", "contract: HTTP"),
    "registry:look-alike": Requirement("a slug that looks like another is refused", "security 1.2 #3"),
    "registry:scan": Requirement(
        "hidden characters, oversize and schema bombs are found at publication", "security 1.2 #1, #23"
    ),
    "registry:urls": Requirement("an endpoint is a plain http or https URL", "security 1.2 #10"),
    "registry:approved-only": Requirement("nothing unapproved is served", "issue 2: 6"),
    "registry:quarantine": Requirement(
        "a tool that differs from its pin is refused until a version is approved", "issue 2: 6"
    ),
    "registry:disabled": Requirement("a disabled server serves nothing", "contract: commands"),
    # Toolsets and search
    "toolset:rules": Requirement(
        "a toolset that could not work is refused with the reason, what is missing now is warned of", "issue 3: 3"
    ),
    "toolset:slug": Requirement("servers and toolsets share one namespace", "contract: HTTP"),
    "toolset:offers": Requirement("a toolset offers what it names, each under one name, in order", "issue 3: 3"),
    "toolset:shown": Requirement("a toolset's names, descriptions and defaults are shown, nothing else", "issue 3: 3"),
    "toolset:pinned": Requirement("a pinned argument can be neither seen nor set by a caller", "issue 3: 3"),
    "toolset:values": Requirement(
        "values are merged into the bytes that are judged, all that the caller sent stays",
        "architecture: judged is sent",
    ),
    "toolset:changes": Requirement("changes of toolsets are whole, noted, and name no argument value", "issue 3: 3"),
    "toolset:configured": Requirement("toolsets can stand in the configuration", "contract: configuration"),
    "toolset:visible": Requirement(
        "a toolset shows what its caller may see; one with nothing for them is one that nobody has",
        "architecture: visibility first",
    ),
    "toolset:real": Requirement(
        "policy, kill switches and records of a call through a toolset are those of the real tool", "issue 3: 3"
    ),
    "toolset:moved": Requirement(
        "a call does not survive that its toolset makes another of it", "architecture: the gate"
    ),
    "toolset:streams": Requirement("a stream tells when the caller's list in a toolset changes", "issue 3: 3"),
    "toolset:audience": Requirement(
        "a credential for /mcp opens toolsets, one for a toolset opens that alone", "contract: scopes and roles"
    ),
    "search:ranked": Requirement("what matches best comes first, equals in a fixed order", "issue 3: 3"),
    "search:visible": Requirement("a search finds what a list would show, and tells nothing of the rest", "issue 3: 3"),
    "search:call": Requirement("what was found is called as itself, and nothing is called twice over", "issue 3: 3"),
    "search:turns": Requirement("indexing ten thousand tools leaves other calls their turn", "issue 3: 3"),
    "list:pages": Requirement("pages leave nothing out and repeat nothing, whatever changes between them", "mcp 1.4"),
    "list:large": Requirement("200 servers with 50 tools each are listed, searched and called", "issue 3: 3"),
    "registry:rollback": Requirement("the version before can be made active again", "contract: commands"),
    "registry:diff": Requirement(
        "what changed between two versions is shown, hidden characters visible", "contract: commands"
    ),
    "registry:versions": Requirement(
        "versions are numbered, and publishing the same again changes nothing", "issue 2: 6"
    ),
    "registry:configured": Requirement(
        "only the operator's file declares processes and endpoints with secrets", "security 1.2 #29"
    ),
    # The HTTP client
    "http:pool": Requirement("kept connections are reused, and replaced only before a write", "performance 7"),
    "http:no-repeat": Requirement("a request that was written is never sent again", "security 4"),
    "http:bodies": Requirement("every framing of a body is read", "RFC 9112 6"),
    "http:redirect": Requirement("a redirect is never followed", "security 1.2 #10"),
    "http:stream": Requirement("chunks come as they arrive; a slow reader slows the writer", "security 1.2 #18"),
    "http:let-go": Requirement("an answer that nobody waits for is cut at once", "architecture: streams"),
    "http:deadlines": Requirement("each phase of a request has a deadline", "security 4"),
    "http:unreachable": Requirement("unreachable means that nothing was sent", "errors: UpstreamUnreachable"),
    "http:vetted": Requirement("every address is vetted at every connect", "security 1.2 #11"),
    "http:unix": Requirement("Unix sockets work alike", "architecture: affinity"),
    "http:strict": Requirement("an answer with two readings, or none, is refused", "security 1.2 #16"),
    "http:surplus": Requirement("late bytes never become the next answer", "security 1.2 #16"),
    "http:headers-out": Requirement("no header or framing can be injected", "security 1.2 #16"),
    "http:url": Requirement("an ambiguous URL is refused, and no secret of it shown", "security 0"),
    "http:tls": Requirement("the server's name is proven; one context serves all", "performance 7"),
    "gate:first-write": Requirement(
        "the gate runs in the callback of the first write; when it raises, no byte was sent", "architecture: the gate"
    ),
    # Tokens of other issuers
    "issuer:admitted": Requirement(
        "a token of a configured issuer counts, in any algorithm allowed for it", "RFC 9068"
    ),
    "issuer:metadata": Requirement("metadata that name another issuer name nobody's keys", "RFC 8414 3.3"),
    "issuer:keys": Requirement("keys are fetched once, kept as HTTP says, and are for what they say", "issue 4: 1"),
    "issuer:outage": Requirement(
        "an issuer that is away costs its tokens little, and lets none through for long", "R8"
    ),
    "issuer:mapping": Requirement("scopes, roles, team and agents come from claims as configured", "issue 4: 1"),
    "issuer:required": Requirement("a token lacks none of the claims that the operator asks for", "issue 4: 1"),
    "issuer:audience": Requirement("every audience of a token is an endpoint of ours", "RFC 8707"),
    "issuer:world": Requirement("accounts and revocations count for tokens of others too, on each call", "issue 4: 6"),
    "issuer:opaque": Requirement("an opaque token counts for the stated time at most after it was revoked", "RFC 7662"),
    "issuer:config": Requirement("an issuer that cannot be trusted is refused at the start", "issue 4: 1"),
    "issuer:no-secrets": Requirement("no refusal shows a claim's value or a part of a token", "style: errors"),
    "token:actors": Requirement("who acts for whom is told nearest first, and bounded", "RFC 8693 4.1"),
    "token:streams": Requirement("a stream ends with its token, and when its issuer revokes it", "issue 4: 6"),
    "issuer:scopes": Requirement("who lacks a scope is told all that it takes, and where to get it", "RFC 9728"),
    "token:table": Requirement("every bad token is refused with the right code, and recorded once", "security: 8"),
    "token:hot": Requirement("a token that is known waits for nothing", "issue 4: bench"),
    # What others name, fetched
    "fetch:denied": Requirement(
        "no URL leads the fetcher to what is not public, however it is written", "security: 10"
    ),
    "fetch:allowed": Requirement("a public host is asked at the very address that was vetted", "security: 11"),
    "fetch:rebinding": Requirement(
        "a name is resolved once for each connection, and all answers count", "security: 11"
    ),
    "fetch:tls": Requirement("a host proves its name, whatever address it has", "security: 11"),
    "fetch:plain": Requirement("http goes to networks that the operator lists and to no others", "issue 4: 5"),
    "fetch:answer": Requirement("an answer is read in one way only, however it is framed", "RFC 9112"),
    "fetch:bounded": Requirement("an answer is bounded in bytes, sent and inflated, in time and in type", "issue 4: 5"),
    "fetch:request": Requirement("a request holds what was asked for, and nothing of the environment", "issue 4: 5"),
    "fetch:redirects": Requirement(
        "a redirect is followed only where asked for, and vetted like a URL", "security: 10"
    ),
    "fetch:no-secrets": Requirement("no error of the fetcher shows more of a URL than its host", "style: errors"),
    "addresses:table": Requirement("private, special and disguised addresses are told from public ones", "security 0"),
    "sse:split": Requirement("the same events come out however the bytes are cut, and no byte is lost", "HTML 9.2.6"),
    "sse:cap": Requirement("an event is bounded, and read in linear time", "security R3"),
    # The LLM route
    "llm:passthrough": Requirement(
        "the provider's bytes pass unchanged; the caller's key does not", "architecture: LLM route"
    ),
    "llm:receipt": Requirement("every answer carries a receipt", "architecture: journal"),
    "llm:usage": Requirement("usage is recorded before the end of the answer", "issue 2: 10"),
    "llm:judged-is-sent": Requirement("the body judged is the body sent", "contract: promises"),
    "llm:stream": Requirement("a stream ends, and counts, as its caller asked", "architecture: streams"),
    "llm:closed-table": Requirement(
        "an unknown or provider-run part of a request is refused by name", "architecture: LLM route"
    ),
    "llm:strict-body": Requirement("a body has one meaning", "security 1.2 #15"),
    "llm:order": Requirement("401 comes before any word about the content", "contract: refused calls"),
    "llm:visibility": Requirement("a model that is not seen does not exist", "architecture: visibility first"),
    "llm:models": Requirement("the list of models equals what may be used", "architecture: visibility first"),
    "llm:proposals": Requirement("a denied proposal does not leave", "architecture: LLM route"),
    "llm:stream-proposals": Requirement("deltas of a proposal are held until it is decided", "architecture: LLM route"),
    "llm:one-reading": Requirement("an answer that could be read two ways is withheld", "security 1.2 #15"),
    "llm:upstream-errors": Requirement("a provider's errors are reported without its secrets", "security R2"),
    "llm:cut-stream": Requirement("a stream cut short ends in an error, never in [DONE]", "architecture: streams"),
    "llm:kill": Requirement("a kill by model or provider cuts a running stream", "issue 2: 8"),
    "llm:disconnect": Requirement("a caller that goes away ends the provider's work", "security R13"),
    "llm:deadlines": Requirement("a silent provider is given up in time", "security 4"),
    "llm:prices": Requirement("an unknown price is none, and looking it up holds nobody up", "issue 2: 10"),
    # What an MCP client asks
    "mcp:media": Requirement("a request is JSON, and its client reads JSON and event streams", "mcp 1.1"),
    "mcp:json-rpc": Requirement("one JSON-RPC 2.0 message, its id kept byte for byte", "mcp 1.1"),
    "mcp:ladder": Requirement(
        "envelope, headers against body, version, method: the first that fails is told", "mcp 1.2, 1.3"
    ),
    "mcp:sentinel": Requirement("header values in canonical base64 are decoded before they are compared", "mcp 1.3"),
    "mcp:eras": Requirement("clients of both eras on one URL, told apart by each request", "mcp 2.2"),
    "mcp:notifications": Requirement("known notifications are read, others accepted and dropped", "mcp 1.4, 2.1"),
    "mcp:judged-is-sent": Requirement("what is forwarded are the very bytes that came", "contract: promises"),
    # MCP servers
    "upstream:same-era": Requirement("a server that speaks both generations is spoken to in the client's", "mcp 2.3"),
    "upstream:era-detection": Requirement(
        "only a modern answer makes a server modern, and it is asked once", "mcp 2.2"
    ),
    "upstream:own-calls": Requirement("the gateway's own calls use either generation", "architecture: one door"),
    "upstream:envelope": Requirement("headers say what the body says", "mcp 1.1, 1.3"),
    "upstream:param-headers": Requirement("headers that repeat arguments are rebuilt after a redaction", "mcp 1.3"),
    "upstream:judged-bytes": Requirement(
        "the very bytes that were judged go, and the answer's come back", "contract: promises"
    ),
    "upstream:parts": Requirement("error, isError, whole and stream become parts", "ports: Part"),
    "upstream:rubbish": Requirement("an upstream that answers rubbish fails its own call, with a cause", "security R2"),
    "upstream:foreign-answers": Requirement("an answer never reaches another call", "security 1.2 #19"),
    "upstream:gate": Requirement("the gate is passed at every write", "architecture: the gate"),
    "upstream:sessions": Requirement("upstream sessions belong to one client session and are bounded", "mcp 2.1"),
    "upstream:notifications": Requirement("notifications are posted and answered with nothing", "mcp 2.1"),
    "upstream:server-requests": Requirement(
        "what a server may ask of a client is a closed table", "architecture: closed table"
    ),
    "upstream:input-required": Requirement("requests for input pass through, with their state", "mcp 1.7"),
    "upstream:streams": Requirement("listen streams, GET streams and list_changed are relayed", "mcp 1.6"),
    "upstream:resumption": Requirement("a stream that the server closed is gone on with after its delay", "SEP-1699"),
    "upstream:cancellation": Requirement("a call that nobody waits for is cancelled as its era has it", "mcp 1.2, 2.1"),
    "upstream:limits": Requirement("streams have limits of time, silence and event size", "security 1.2 #18"),
    "upstream:npm-servers": Requirement("the reference servers of npm work", "issue 2: how we will know"),
    # A modern client in front of a server of the handshake era
    "for-modern:results": Requirement(
        "discovery, results, errors and tool definitions are those of a modern server", "mcp 2.3 (3)"
    ),
    "for-modern:sessions": Requirement(
        "requests of one principal with the same capabilities share a session, those of two never do", "mcp 2.3 (3)"
    ),
    "for-modern:lost": Requirement(
        "in a new session only that is asked again which the protocol lets be asked twice", "mcp 2.3 (3)"
    ),
    "for-modern:own-request": Requirement(
        "progress and log messages reach the request that wanted them, at its level, and no other", "mcp 1.8, 2.3 (3)"
    ),
    "for-modern:cancellation": Requirement("a client that leaves cancels its request at the server", "mcp 2.3 (3)"),
    "for-modern:listens": Requirement(
        "a listen is acknowledged with what the server can tell, and told that, under its own id", "mcp 1.6, 2.3 (3)"
    ),
    "for-modern:shared-stream": Requirement(
        "all who listen in a session share its stream, and watch a resource as long as one of them does", "mcp 2.1"
    ),
    "for-modern:listen-gate": Requirement(
        "what is written on a shared stream passes the gate of a call that still listens", "architecture: the gate"
    ),
    "held:asked": Requirement(
        "what a server asks in a call is its answer, and a retry that brings the answers goes on with the call",
        "mcp 1.7, 2.3 (3)",
    ),
    "held:state": Requirement(
        "a state works once, in time, for the same call of the same principal; any other is one that never was",
        "mcp 1.7",
    ),
    "held:never-twice": Requirement("a call that is lost while it waits is an error, never called again", "issue 3: 1"),
    "held:undeclared": Requirement(
        "what a client did not declare, or cannot be asked there, is refused to the server", "mcp 2.3 (3)"
    ),
    "held:url": Requirement("URLs that must be visited first are asked for, and nothing is held", "mcp 2.3 (3)"),
    "held:ended": Requirement(
        "the server of a call that ends while it waits is told, also after a kill", "architecture: streams"
    ),
    "held:gate": Requirement("a retry takes a call over in the step that writes its first answer", "ADR 1"),
    "held:bounded": Requirement("calls that wait are bounded, per principal and in all, and in time", "issue 3: 1"),
    "held:killed": Requirement(
        "a switch finds calls that wait, ends them and names them; no retry goes on under it", "architecture: streams"
    ),
    "held:revoked": Requirement("a call does not wait for a credential that counts no more", "contract: revocation"),
    "held:recorded": Requirement(
        "a call that waits has its record before it asks, and one of how that ended", "architecture: streams"
    ),
    "held:workers": Requirement("a retry finds its call through any worker", "architecture: affinity"),
    "held:sdk": Requirement("the SDK's client answers a server of the other generation", "issue 3: 1"),
    # A client of the handshake era in front of a modern server
    "for-legacy:handshake": Requirement(
        "`initialize` is answered from what the server tells of itself to this very client", "mcp 2.3 (4)"
    ),
    "for-legacy:envelope": Requirement(
        "each request says again what the client said once, in the body and in the headers", "mcp 2.3 (4)"
    ),
    "for-legacy:results": Requirement(
        "results, errors and tool definitions are legal in the client's era, and lose no text", "mcp 2.3 (4)"
    ),
    "for-legacy:sessions": Requirement(
        "what a session began with stays its own, is bounded, and ends with it", "mcp 2.3 (4), 2.1"
    ),
    "for-legacy:gate": Requirement("every request, also each retry, passes the gate of its call", "architecture: gate"),
    "for-legacy:questions": Requirement(
        "`input_required` becomes requests on the call's stream, and their answers the next round", "mcp 1.7, 2.3 (4)"
    ),
    "for-legacy:askable": Requirement(
        "a client is asked what its revision and capabilities have, and told of what it cannot be", "mcp 2.1, 2.3 (4)"
    ),
    "for-legacy:answers": Requirement(
        "an answer reaches the call that waits for it, from the client that was asked alone", "mcp 2.1"
    ),
    "for-legacy:rounds": Requirement("rounds, pauses between them and the wait for answers are bounded", "mcp 1.7"),
    "for-legacy:ended": Requirement(
        "a call that ends while its client is asked is not gone on with, and what is still asked is taken back",
        "mcp 2.3 (4)",
    ),
    "for-legacy:listens": Requirement(
        "one listen for each session, told on its stream, replaced without a gap or a double", "mcp 1.6, 2.3 (4)"
    ),
    "for-legacy:subscribe": Requirement("a subscription is what the server has acknowledged", "mcp 1.6, 2.3 (4)"),
    "for-legacy:clients": Requirement(
        "the SDK's client and a bare one use all of a modern server, through several workers", "issue 3: 1"
    ),
    "for-legacy:relisten": Requirement("a listen that the server ends is opened again, a few times", "mcp 1.6"),
    "stdio:process": Requirement(
        "a server process has the operator's exact arguments and environment", "security 1.2 #29"
    ),
    "stdio:one-session": Requirement(
        "the calls of all callers share a process and never each other's answers", "security 1.2 #19"
    ),
    "stdio:translation": Requirement("plain calls are translated between the generations", "mcp 2.3"),
    "stdio:supervision": Requirement("a process that died is started again, slower each time", "issue 2: 4"),
    "stdio:gate": Requirement("the gate stands at the write of each frame", "architecture: the gate"),
    "stdio:cancellation": Requirement("cancelling is a notification", "mcp 1.9"),
    "stdio:limits": Requirement("a line without end does not fill the memory", "security 1.2 #29"),
    "stdio:ending": Requirement("the whole process group ends with the gateway", "security 1.2 #29"),
    "stdio:exclusive": Requirement(
        "a process that is not shared serves one principal, or one session, and is told of its client", "issue 3: 4"
    ),
    "stdio:server-requests": Requirement(
        "what a process asks reaches its own client alone, and so does the answer", "issue 3: 1"
    ),
    "stdio:listening": Requirement(
        "log messages, updates and changed lists of an own process reach its client", "issue 3: 2"
    ),
    "stdio:across": Requirement(
        "a client of the handshake era in front of a process of 2026-07-28 is asked, told and obeyed", "mcp 2.3"
    ),
    "stdio:tasks": Requirement("a process makes tasks for those who know them, under sealed ids", "SEP-2663"),
    "stdio:held": Requirement("a modern client is asked by its answer, and a retry goes on with the call", "mcp 2.3"),
    "stdio:input-required": Requirement("requests for input pass through, with their state", "mcp 1.7"),
    "stdio:bounded": Requirement("processes are bounded in number and ended when idle", "issue 3: 4"),
    "stdio:resources": Requirement("a process has the resource limits of its entry", "security 1.2 #29"),
    "sse:session": Requirement("one stream is one session, of one client with one server", "issue 3: 4"),
    "sse:endpoint": Requirement("messages go to the origin of the stream and nowhere else", "2024-11-05 transports"),
    "sse:gate": Requirement("the gate stands at the GET and at every POST", "architecture: the gate"),
    "sse:foreign-answers": Requirement("an answer never reaches another call", "security 1.2 #19"),
    "sse:calls": Requirement("what comes on the stream belongs to its call, whatever its POST says", "issue 3: 4"),
    "sse:lost": Requirement("what ran in a lost session has failed, and is never sent again", "issue 3: 4"),
    "sse:server-requests": Requirement("a server asks and tells its own client", "issue 3: 1"),
    "sse:listening": Requirement("modern clients listen, and have log messages of their level", "mcp 2.3"),
    "sse:translation": Requirement("modern clients use servers over HTTP+SSE", "mcp 2.3"),
    "sse:held": Requirement("a modern client is asked by its answer, and a retry goes on with the call", "mcp 2.3"),
    "sse:bounded": Requirement("sessions and calls are bounded, idle sessions end", "architecture: bounded"),
    "sse:ending": Requirement("sessions end with their client, a kill, and the gateway", "issue 3: 4"),
    "sse:registering": Requirement("a URL is found to be HTTP+SSE when it takes no POST", "2025-11-25 transports"),
    "stdio:log": Requirement("what a server writes to stderr is one harmless line of log each", "security 1.2 #24"),
    # REST APIs
    "openapi:file": Requirement(
        "a document is read so that no two readers differ on it, and never without end", "security: bombs"
    ),
    "openapi:references": Requirement(
        "no reference leads out of the document, and nothing is ever fetched", "security 1.2 #10"
    ),
    "openapi:problems": Requirement(
        "every problem has its place in the document and a fix, and costs its own operation alone", "issue 3: 4"
    ),
    "openapi:selection": Requirement("the operator's globs say which operations are tools", "issue 3: 4"),
    "openapi:base-url": Requirement("calls go to one base URL, which nobody has to guess", "issue 3: 4"),
    "openapi:names": Requirement("tools and arguments have names that every client takes, without clash", "mcp 1.4"),
    "openapi:schemas": Requirement(
        "schemas of 3.0 and 3.1 become JSON Schema 2020-12 with the same meaning", "OpenAPI 3.1.1 4.8.24"
    ),
    "openapi:bounded": Requirement(
        "depth, number and cost of schemas are bounded, recursive ones too", "mcp 1.1, security 1.2 #23"
    ),
    "openapi:definitions": Requirement("a tool says what its operation takes, answers and does", "issue 3: 4"),
    "openapi:styles": Requirement("parameters are written as the specification's table has it", "OpenAPI 3.1.1 4.8.12"),
    "openapi:path": Requirement("no path parameter leads out of its segment", "CVE-2026-32871"),
    "openapi:headers": Requirement(
        "no argument becomes a header that frames, routes or speaks for somebody", "security 1.2 #7"
    ),
    "openapi:bodies": Requirement("bodies are sent in the media type that the document offers", "issue 3: 4"),
    "openapi:validation": Requirement(
        "arguments are checked before anything is sent, and a refusal names the property, not the value", "issue 3: 4"
    ),
    "openapi:judged": Requirement("the judged bytes decide what is sent", "architecture: judged is sent"),
    "openapi:credentials": Requirement(
        "the operator's headers go with every call, the caller's with none, and nobody is shown them", "security 1.2 #7"
    ),
    "openapi:answers": Requirement("an answer becomes content of its kind, a failure a result", "mcp 1.4"),
    "openapi:eras": Requirement("clients of both generations are answered in theirs", "issue 3: 1"),
    "openapi:gate": Requirement("the gate stands at the write of the request", "architecture: the gate"),
    "openapi:pinned": Requirement(
        "a call goes out only as the operation that was approved", "issue 2: 6, security 1.2 #2"
    ),
    "openapi:governed": Requirement(
        "a real API is listed, called, denied, killed, recorded and quarantined like any server", "issue 3: 4"
    ),
    # Administration and commands
    "admin:authenticated": Requirement(
        "every operation without a credential is a recorded 401", "contract: scopes and roles"
    ),
    "admin:scopes": Requirement(
        "each operation answers exactly the roles that have its scope", "contract: scopes and roles"
    ),
    "admin:revoked-key": Requirement("a revoked key is refused on the next request", "contract: promises"),
    "admin:kill": Requirement(
        "a kill is 200 when every worker has applied it; a release needs a reason", "contract: HTTP"
    ),
    "admin:kill-missing": Requirement("202 names the workers that are missing", "contract: HTTP"),
    "admin:health": Requirement(
        "health needs no credential; readiness is 503 until a call would be served", "contract: HTTP"
    ),
    "admin:dev-warning": Requirement("readiness warns while nobody needs a credential", "contract: configuration"),
    "admin:openapi": Requirement("the description names every operation, its scope and its body", "contract: HTTP"),
    "admin:strict": Requirement("unknown and duplicate keys are refused, with the fix", "issue 2: bad input"),
    "admin:size": Requirement("oversize is 413, declared or streamed", "issue 2: bad input"),
    "cli:errors": Requirement("an error is one clear line with its fix, JSON when asked", "issue 2: bad input"),
    "cli:no-gateway": Requirement("a command without a gateway says how to start one", "issue 2: bad input"),
    "cli:port-in-use": Requirement("a port in use is said before anything is made", "issue 2: bad input"),
    "cli:directory-in-use": Requirement("a second gateway on one directory is refused", "issue 2: bad input"),
    "cli:json": Requirement("every command has --json", "contract: commands"),
    "cli:usage": Requirement("bad usage ends with status 2", "contract: commands"),
    "cli:call": Requirement("result and progress are kept apart, in both generations", "contract: commands"),
    "cli:call-refused": Requirement("a refused call shows its decision or its switch", "contract: commands"),
    "cli:finds-gateway": Requirement("options, environment and file lead to the gateway", "contract: commands"),
    "cli:kill": Requirement("switches are thrown, listed and released", "contract: commands"),
    "cli:check-config": Requirement("each problem is named with file, key and fix", "contract: commands"),
    "cli:administers": Requirement(
        "keys, policies, versions and log are administered from the shell", "contract: commands"
    ),
    "cli:policy-check": Requirement("a policy is checked as the gateway checks it", "issue 2: 7"),
    "cli:policy-test": Requirement("failing policy tests are named", "issue 2: 7"),
    "cli:key-stays-with-its-url": Requirement("a key from the file goes to no other URL", "security 1.2 #7"),
    "quickstart:resumes": Requirement("a second start has the same keys and state", "contract: commands"),
    "quickstart:four-commands": Requirement("the four printed commands do what they say", "issue 2: 11"),
    "quickstart:killed-while-running": Requirement("a running call is cut, and the log says so", "issue 2: 11"),
    "quickstart:fails-clearly": Requirement("a quickstart that cannot start ends with the reason", "issue 2: 11"),
    "example:eras": Requirement("the example server speaks both generations", "issue 2: 11"),
    "example:progress": Requirement("the slow tool reports progress, and stops when cancelled", "issue 2: 11"),
    # Sessions of the handshake era
    "session:affinity": Requirement(
        "a session id names the worker that holds it, to every worker", "architecture: affinity"
    ),
    "session:forged": Requirement("a forged session id is unknown", "mcp 2.1"),
    "session:bound": Requirement("a session belongs to the endpoint it was opened on", "mcp 2.1"),
    "session:ends": Requirement("a session ends when told or idle, never while it is used", "issue 2: 3"),
    "session:limit": Requirement("sessions are bounded", "security: 32"),
    "session:asked": Requirement("a request of a server reaches the client under an id of ours", "mcp 2.1"),
    # What an MCP client is answered
    "answer:whole": Requirement(
        "a result leaves as it came, under the client's id, with its receipt", "architecture: journal"
    ),
    "answer:status": Requirement("an error has the HTTP status of the client's era", "mcp 1.2"),
    "answer:refusal": Requirement(
        "a refusal has one code, a reason and a fix, and no internals", "contract: refused calls"
    ),
    "answer:refused-late": Requirement("what is refused before the first byte is told", "architecture: streams"),
    "answer:denied": Requirement("a denied tool call is a result that a model can act on", "contract: refused calls"),
    "answer:stream": Requirement(
        "a stream ends with its response, or with the refusal as its last event", "contract: refused calls"
    ),
    "body:limits": Requirement("a request body is bounded in size and time", "issue 2: 3"),
    # What the gateway answers itself
    "router:target": Requirement(
        "a permit reaches the upstream it is for, past the gate, and no other", "architecture: permit"
    ),
    "router:once": Requirement("a permit sends once", "architecture: permit"),
    "own:tools": Requirement("a list of tools is the pins that its caller may see, never cached by others", "mcp 1.5"),
    # Several servers behind one endpoint
    "several:uris": Requirement(
        "a resource's URI over several servers leads back to one server and its own URI, for templates too",
        "issue 3: 3",
    ),
    "several:prompt-names": Requirement(
        "a prompt's name over several servers leads back to one server and its own name", "issue 3: 3"
    ),
    "several:shown": Requirement(
        "every place where a URI reaches a client of several servers has the one that the client can use",
        "issue 3: 2, 3",
    ),
    "several:named": Requirement(
        "what is judged and sent bears the server's own names, whatever the client called it",
        "architecture: judged is sent",
    ),
    "merged:whole": Requirement("a list over several servers has what each has, in a fixed order", "issue 3: 3"),
    "merged:children": Requirement(
        "each server is asked by an action of its own, for the caller, recorded with its parent", "architecture: permit"
    ),
    "merged:visible": Requirement("a merged list has only what its caller may see", "architecture: visibility first"),
    "merged:capable": Requirement("only servers that have such a list are asked for it", "mcp 1.1"),
    "merged:unavailable": Requirement(
        "a server that does not answer in time costs its own items, and the list says so", "issue 3: 3"
    ),
    "merged:killed": Requirement("a kill ends its part of a list that is being made", "architecture: kill"),
    "merged:bounded": Requirement("a merged list asks a few servers at once", "issue 3: 5"),
    "merged:pages": Requirement("a long list comes in pages that together are whole", "issue 3: 3"),
    "merged:cursors": Requirement("a cursor is for one caller and one list", "mcp 1.4"),
    "several:children": Requirement(
        "a child action is judged, recorded and cut by itself, and ends with its parent", "architecture: permit"
    ),
    "several:capabilities": Requirement(
        "a handshake announces what any visible server can do, and waits for none", "issue 3: 2"
    ),
    "several:level": Requirement(
        "a log level reaches the servers that a session is open with, and later ones when they are", "issue 3: 2"
    ),
    "several:streams": Requirement(
        "streams over several servers tell of changed lists of all that are visible, and of no others", "issue 3: 2"
    ),
    "several:watch": Requirement(
        "one stream of the gateway's own to each server serves all streams of clients", "issue 3: 2"
    ),
    "several:subscriptions": Requirement(
        "updates of a resource reach those who subscribed to it, under the URI that they used", "issue 3: 2"
    ),
    "several:trace": Requirement("trace context reaches servers untouched", "mcp 8: trace context"),
    "several:sdk": Requirement("the SDK's client of either generation works over several servers", "issue 3: 3"),
    "own:handshake": Requirement("over all servers the gateway shakes hands itself", "contract: HTTP"),
    "own:streams": Requirement(
        "open streams are told when the tools that their caller sees change, and relay their server", "mcp 1.6"
    ),
    # Limits
    "limits:principal": Requirement("the running calls of one caller are bounded", "security: 32"),
    "limits:upstream": Requirement("the running calls to one upstream are bounded", "security: reliability limits"),
    "limits:given-back": Requirement(
        "a place is given back exactly once, however a call ends", "architecture: reserve"
    ),
    # The supervisor
    "supervisor:restart": Requirement("a process that dies is started again, later each time it fails", "issue 2: 8"),
    "supervisor:end": Requirement("workers end first, then the keeper; who does not end is killed", "security: R4"),
    "supervisor:port": Requirement("a port in use is refused with a fix", "issue 2: bad input"),
    # The log
    "audit:canonical": Requirement(
        "the leaf hash covers the stored bytes, whose fields have a fixed order", "architecture: journal and log"
    ),
    "audit:chain": Requirement(
        "index and previous hash run on over all files of a log", "architecture: journal and log"
    ),
    "audit:tail": Requirement("who reads along sees whole records only", "architecture: journal and log"),
    "audit:position": Requirement("the size of a log is known at any time", "architecture: journal and log"),
    "audit:tree": Requirement(
        "trees, inclusion and consistency are those of RFC 6962 and RFC 9162", "architecture: journal and log"
    ),
    "audit:keys": Requirement(
        "the signing key is private, made once and never swapped", "architecture: journal and log"
    ),
    "audit:one-writer": Requirement("a log has one writer, a machine one keeper", "architecture: journal and log"),
    "audit:write-ahead": Requirement(
        "the intent is in the file before the permit exists", "architecture: journal and log"
    ),
    "audit:gate": Requirement("a gate that raises leaves no intent", "architecture: journal and log"),
    "audit:two-records": Requirement("a call has an intent and an outcome", "architecture: journal and log"),
    "audit:stream": Requirement(
        "a stream has opened, outcome and closed, with its counts", "architecture: journal and log"
    ),
    "audit:cut": Requirement(
        "a call that was cut says by whom, and whether it was sent", "architecture: journal and log"
    ),
    "audit:rejudged": Requirement("a call judged again says which attempt it is", "architecture: journal and log"),
    "audit:refused": Requirement("a refusal is one record, with its reasons", "architecture: journal and log"),
    "audit:shed": Requirement(
        "strangers cannot fill the log: beyond a rate they are counted", "architecture: journal and log"
    ),
    "audit:group-commit": Requirement(
        "with durability disk, waiting records share one sync", "architecture: journal and log"
    ),
    "audit:full-disk": Requirement(
        "without room for a record there is no call, and what is owed still fits", "architecture: journal and log"
    ),
    "audit:no-room-no-start": Requirement("a log without room is not opened", "architecture: journal and log"),
    "audit:survives-kill": Requirement(
        "a record survives the death of every gateway process", "architecture: journal and log"
    ),
    "audit:healing": Requirement("a torn tail is found and healed", "architecture: journal and log"),
    "audit:unknown-effect": Requirement(
        "intents without outcome are named after a crash", "architecture: journal and log"
    ),
    "audit:hostile": Requirement("hostile text is one harmless line", "architecture: journal and log"),
    "audit:checkpoint": Requirement(
        "every second what changed is signed, over all logs", "architecture: journal and log"
    ),
    "audit:resume": Requirement("the keeper goes on where it was", "architecture: journal and log"),
    "audit:alarm": Requirement("a broken chain is alarmed, never signed over", "architecture: journal and log"),
    "audit:admin-notes": Requirement(
        "administrators' changes come into the log exactly once", "architecture: journal and log"
    ),
    "audit:proof": Requirement("the inclusion of a record is proven in milliseconds", "architecture: journal and log"),
    "audit:tamper": Requirement(
        "any change below a kept checkpoint is found, and where", "architecture: journal and log"
    ),
    "audit:equivocation": Requirement(
        "two checkpoints of one size with different roots are shown", "architecture: journal and log"
    ),
    # Reading and proving the log
    "audit:no-values": Requirement("digests and chosen fields are recorded, never arguments", "security 3"),
    "audit:withheld": Requirement("an answer whose outcome cannot be recorded is withheld", "contract: promises"),
    "audit:query": Requirement(
        "the log is read by filters, with a cursor that is stable under writes", "contract: HTTP"
    ),
    "audit:index-disposable": Requirement("the index can be thrown away", "architecture: embedded"),
    "audit:verify": Requirement("verification needs no gateway", "contract: commands"),
    "audit:pairs": Requirement("verification pairs intents with outcomes", "issue 2: 9"),
    "audit:receipt": Requirement("a receipt proves its record", "contract: promises"),
    "audit:kill-proof": Requirement("a certificate proves that no matching intent follows", "contract: promises"),
    # Packaging
    "packaging:complete": Requirement("the wheel holds every module and data file, and nothing else", "ADR 2"),
    "packaging:metadata": Requirement("the wheel says what it is", "ADR 2"),
    "packaging:no-hijack": Requirement("no file of the working directory is imported in place of ours", "ADR 2"),
    "imports:directions": Requirement("imports point inwards, in the mapped packages too", "architecture: directions"),
    "dependencies:few": Requirement("at most 25 runtime dependencies", "security: goals"),
    "dependencies:explained": Requirement("every dependency is explained", "style: habits"),
    "dependencies:used": Requirement("what is imported is declared, what is declared is imported", "security: goals"),
    "dependencies:pinned": Requirement("the Rego engine is pinned; nothing is installed from elsewhere", "ADR 3"),
    # Policies
    "policy:bundle-digest": Requirement("the same files have the same digest", "architecture: embedded Rego"),
    "policy:lint-built-ins": Requirement("only verified built-ins are taken", "architecture: embedded Rego"),
    "policy:lint-negation": Requirement(
        "nothing fallible, multi-valued or possibly missing stands below not, also transitively",
        "architecture: embedded Rego",
    ),
    "policy:lint-recursion": Requirement("recursion is refused with file, line and fix", "architecture: embedded Rego"),
    "policy:lint-syntax": Requirement(
        "what is not Rego v1 is refused with file, line and fix", "architecture: embedded Rego"
    ),
    "policy:memo": Requirement(
        "a decision is remembered only when its rules read nothing of the call", "architecture: embedded Rego"
    ),
    "policy:input": Requirement("the input document is the contract's", "contract: policy input and output"),
    "policy:output": Requirement("an answer of another shape denies", "contract: policy input and output"),
    "policy:obligations": Requirement(
        "an unknown or unfulfillable obligation denies", "contract: policy input and output"
    ),
    "policy:undefined-denies": Requirement("undefined denies", "contract: policy input and output"),
    "policy:never-raises": Requirement("every failure is a deny with a reason", "contract: policy input and output"),
    "policy:judged-bytes": Requirement(
        "arguments are in the input byte for byte and cannot displace our facts", "contract: promises"
    ),
    "policy:input-cap": Requirement("an input beyond the cap is denied", "security 1.2 #22"),
    "policy:budget": Requirement("an exhausted budget denies", "security 1.2 #22"),
    "policy:redos": Requirement("hostile patterns cost no time", "security 1.2 #22"),
    "policy:killable": Requirement("the evaluation of a large input can be ended", "architecture: embedded Rego"),
    "policy:two-evaluators": Requirement("only what both evaluators allow is allowed", "architecture: embedded Rego"),
    "policy:thread-bound": Requirement(
        "the engine is used, dropped and rebuilt on its own thread", "architecture: embedded Rego"
    ),
    "policy:refused-whole": Requirement("a bad bundle changes nothing", "security R16"),
    "policy:check-apart": Requirement("checking a bundle cannot bring the gateway down", "security R16"),
    "policy:parity": Requirement("every vector, idiom and built-in agrees with OPA", "architecture: embedded Rego"),
    "policy:opa-down": Requirement("a dead or hung OPA denies in time", "security R8"),
    "policy:activate": Requirement("old and new change in one commit", "architecture: World"),
    "policy:rollback": Requirement("the policy before can be made active again", "contract: commands"),
    "policy:explain": Requirement("an explanation shows the decision and the rules that made it", "contract: commands"),
    "policy:test": Requirement("a policy's own tests are run, as OPA runs them", "contract: commands"),
    # Documentation
    "readme:transcript": Requirement("the transcript of the README is what happens", "issue 2: 12"),
    "readme:commands": Requirement("the two commands of the README are the ones that work", "issue 2: 12"),
    "readme:clients": Requirement("the README's clients connect as shown", "issue 2: 12"),
    "docs:generated": Requirement("generated pages are fresh", "contract: configuration"),
    "docs:commands": Requirement("commands in the guides exist", "style: docs as tests"),
    "examples:kill-drill": Requirement("the kill drill does what it says", "architecture: examples"),
    "examples:quickstart": Requirement("the quickstart example is what the quickstart makes", "architecture: examples"),
    # End to end
    "spec:through-the-gateway": Requirement(
        "the conformance suite gives through the gateway what it gives directly", "issue 2: how we will know"
    ),
    "spec:across-eras": Requirement(
        "a client of one era finds in a server of the other all that the protocol makes possible", "issue 3: 1"
    ),
    "sdk:tools": Requirement(
        "the SDK's client lists and calls, both generations, both endpoints", "issue 2: how we will know"
    ),
    "sdk:oauth": Requirement("the SDK's client gets a token by itself", "issue 2: how we will know"),
    "sdk:audience": Requirement("a token for one endpoint is refused on another", "contract: scopes and roles"),
    "sdk:scope": Requirement("an administrator's key is refused by scope on /mcp", "contract: scopes and roles"),
    "sdk:revocation": Requirement("a revoked client is refused on its next call", "contract: promises"),
    "sdk:denied": Requirement("a denial is a result that a model can act on", "contract: refused calls"),
    "sdk:progress": Requirement("progress arrives while the call runs", "issue 2: 3"),
    "sdk:cancel": Requirement("a cancelled call stops upstream", "issue 2: 3"),
    "sdk:logging": Requirement("log messages arrive as asked for", "issue 2: 3"),
    "sdk:asking": Requirement(
        "elicitation, sampling and roots reach the client, and its answers the server", "issue 2: 3"
    ),
    "sdk:resources": Requirement("resources are read, listed and watched", "issue 2: 3"),
    "sdk:subscriptions": Requirement("listen streams tell of changes", "issue 2: 3"),
    "sdk:prompts": Requirement("prompts and completion work", "issue 2: 3"),
    "sdk:quarantine": Requirement("a tool that changed is refused, the others go on", "issue 2: 6"),
    "sdk:receipts": Requirement("a receipt is proven against a checkpoint", "contract: promises"),
    "visibility:names": Requirement(
        "a hidden and an unknown name look the same on every method", "architecture: visibility first"
    ),
    "visibility:servers": Requirement("a hidden and an unknown server look the same", "architecture: visibility first"),
    "visibility:tools": Requirement("a hidden tool is neither listed nor callable", "architecture: visibility first"),
    "kill:zero-after-200": Requirement("no unlisted call arrives after the 200", "security K1"),
    "kill:running": Requirement(
        "running calls are answered, and their upstream sees the end, within a second", "security K2"
    ),
    "kill:streams": Requirement("open streams are told, or end", "security K3"),
    "kill:fail-closed-start": Requirement("a start without its state, or with an older one, is closed", "security K6"),
    "kill:certificate": Requirement(
        "every certificate verifies offline, and a forged intent is found", "issue 2: how we will know"
    ),
    "ready:audit-sink": Requirement("readiness tells that the log cannot be written", "contract: HTTP"),
    "workers:stdio": Requirement("any worker serves a stdio server", "architecture: affinity"),
    "workers:sessions": Requirement("a session survives another worker's connection", "architecture: affinity"),
    "workers:revocation": Requirement("a revocation holds on every worker", "contract: promises"),
    "workers:activation": Requirement(
        "an activation holds on every worker when its answer is there", "architecture: World"
    ),
    "workers:quarantine": Requirement("a quarantine holds on every worker until a version is approved", "issue 2: 6"),
    # Pages
    "docs:configuration": Requirement(
        "every documented key is read, with its name in the environment", "contract: configuration"
    ),
    "docs:links": Requirement("every link between pages leads somewhere", "style: docs as tests"),
    "docs:policy": Requirement("the policies in the guides pass the check", "style: docs as tests"),
    "docs:threats": Requirement("the threat model names requirements that exist", "security 1"),
    # Bad input, real clients and servers
    "audit:crash": Requirement(
        "after kill -9 every answered call has intent and outcome, every arrival an intent", "security A1"
    ),
    "audit:no-record-no-call": Requirement("without room for a record nothing arrives upstream", "security A2"),
    "audit:room-for-outcomes": Requirement(
        "what is under way can still be recorded when the disk is full", "security A2"
    ),
    "kill:drain": Requirement("a draining switch lets what runs finish, and names it", "contract: HTTP"),
    "kill:no-room": Requirement("a kill works without room in the log", "architecture: Kill"),
    "bad-input:admin": Requirement("the admin API names what is wrong, and the fix", "issue 2: bad input"),
    "bad-input:content": Requirement("content that has two meanings, or none, is refused by name", "security 1.2 #15"),
    "bad-input:legacy": Requirement("a handshake-era client is told in its own way", "mcp 2.1"),
    "bad-input:limits": Requirement("what is too large or too deep is refused", "security 4"),
    "bad-input:methods": Requirement("unknown methods and versions have the protocol's codes", "mcp 1.2"),
    "bad-input:policy": Requirement("a broken policy is refused and the old one stays", "security R16"),
    "bad-input:shape": Requirement("what is not a request is refused before anything else", "contract: refused calls"),
    "bad-input:start": Requirement("a start that cannot work says why", "issue 2: bad input"),
    "bad-input:stranger": Requirement("a stranger learns nothing but 401", "contract: refused calls"),
    "bad-upstream:own-call": Requirement("a bad upstream costs its own call only", "security R2"),
    "bad-upstream:registration": Requirement("what is not an MCP server cannot be registered", "issue 2: bad input"),
    "clients:unchanged": Requirement(
        "clients that others made list, call, read, fill in and are asked, unchanged", "issue 3: how we will know"
    ),
    "clients:inspector": Requirement("the Inspector's commands work", "issue 3: how we will know"),
    "servers:real": Requirement(
        "servers that others made are used by clients of both eras", "issue 3: how we will know"
    ),
    "servers:asking": Requirement("a handshake-era server's own requests reach clients of both eras", "mcp 2.3"),
    "ids:never-cross": Requirement(
        "2 principals x 5,000 calls with one id over each combination of eras: no answer crosses", "issue 3: 6"
    ),
    "npm:http": Requirement("npm's server works over streamable HTTP", "issue 2: how we will know"),
    "npm:stdio": Requirement("npm's servers work over stdio", "issue 2: how we will know"),
    "openai:chat": Requirement("the openai SDK chats", "issue 2: how we will know"),
    "openai:stream": Requirement("the openai SDK reads streams", "issue 2: how we will know"),
    "openai:tools": Requirement("proposed tools are decided before they leave", "issue 2: 10"),
    "openai:models": Requirement("the list of models is what the caller may use", "issue 2: 10"),
    "openai:errors": Requirement("errors are those the openai SDK knows", "contract: refused calls"),
    "openai:kill": Requirement("a kill by model or provider ends a running stream with an error", "issue 2: 8"),
    "openai:cut": Requirement("a stream that is cut is never taken for complete", "architecture: streams"),
    # Tokens of other issuers, and people who sign in
    "issuers:jwt": Requirement(
        "a token of a configured issuer opens what it is for; of another issuer, or for another place, nothing",
        "issue 4: 1",
    ),
    "issuers:claims": Requirement("team, roles and kind of a caller are what its issuer's claims say", "issue 4: 1"),
    "issuers:rotation": Requirement("calls go on while an issuer rotates its keys", "issue 4: 1"),
    "issuers:opaque": Requirement(
        "an opaque token is asked about, and is refused within the cache time once its issuer has revoked it",
        "contract: promises",
    ),
    "issuers:revoked-here": Requirement("who is revoked here is refused, whoever issued the token", "issue 4: 6"),
    "oauth:browser": Requirement(
        "the SDK's client and mcp-remote complete the code flow, once their user has allowed them in a browser",
        "issue 4: how we will know",
    ),
    "oauth:consent": Requirement("who is asked sees who asks for what, and is heard", "issue 4: 2"),
    "oauth:revoked-grant": Requirement("an authorization that is revoked ends with the next call", "issue 4: 6"),
    "oauth:provider": Requirement(
        "people sign in at an OpenID provider, and are here who it says, as far as the rules let them in", "issue 4: 2"
    ),
    "secrets:canaries": Requirement(
        "no secret that a gateway is given or gives out stands in its database, logs, pages or admin API",
        "issue 4: how we will know",
    ),
    "spec:authorization": Requirement(
        "the conformance suite's scenarios for authorization servers pass", "issue 4: how we will know"
    ),
    "routes:authentication": Requirement("every route asks for a credential, except those listed", "security 1.1"),
    "routes:matrix": Requirement("who may do what is a page, and the gateway answers as it says", "issue 4"),
    "routes:roles": Requirement("every administrator's route answers exactly its roles", "security 1.2 #27"),
    # Each user's own credential towards upstreams
    "connect:conformance": Requirement(
        "the gateway passes the required client scenarios of 2026-07-28 about authorization",
        "issue 4: how we will know",
    ),
    "connect:discovery": Requirement(
        "metadata counts only where its resource is the server and its issuer the one that was asked for",
        "mcp 3: client, RFC 9728 §3.3, RFC 8414 §3.3",
    ),
    "connect:registration": Requirement(
        "the gateway is whom it registered as, by issuer: before, by its document, or there and then", "mcp 3: client"
    ),
    "connect:consent": Requirement(
        "a user agrees in a browser, signed in as the one who called, by a button, once", "security: 12, mcp 4"
    ),
    "connect:mix-up": Requirement("an answer of another issuer than the one asked is not used", "RFC 9207 §2.4"),
    "connect:asked": Requirement(
        "a caller is asked in the way of their client, and the call goes on after they agreed", "issue 4: 3"
    ),
    "connect:retry": Requirement(
        "the state of an unsent call is its caller's, for that call, for minutes, and goes no further", "mcp 1.7"
    ),
    "connect:own-token": Requirement("no user's call ever bears another's token", "issue 4: how we will know"),
    "connect:refresh": Requirement(
        "a refresh token is used once by all workers together, and its successor is kept first", "issue 4: 3"
    ),
    "connect:step-up": Requirement(
        "a server that wants more scopes has the user asked for all of them together, and not without end", "mcp 3"
    ),
    "connect:lists": Requirement("a server that waits for consent costs a list its own items only", "issue 4: 3"),
    "connect:disconnect": Requirement("whoever disconnects a server has no token there any more", "issue 4: 3"),
}
