#!/usr/bin/env python3
"""Who may do what: every route with every method, for every kind of caller, against a table written by hand."""

import re
import subprocess
import sys
import unittest

import recorder_world
from web_world import DOCUMENT, PASSWORD, WEB, User, WebWorld

# What is written down here is what is wanted, not what the program says of itself: a route that is missing, in the
# table or in the program, fails the tests.
#
# One column a caller: `+` he is let through, `.` he is refused. First nobody (no cookie, no token), then users by the
# cookie of their session: viewer, viewer where viewers may have headers (--viewer-headers), analyst, operator, admin.
# Then tokens of an admin that have one scope only: read, headers, packets, control, users. The status is what someone
# who is let through is answered, on a recorder without rings, to a request with an empty object for a body.
TABLE = """
#                                                      nobody viewer with-h analyst operator admin  read headers packets control users
POST   /api/v1/session                            400    +      +      +       +       +      +      +      +       +       +      +
GET    /api/v1/session                            200    .      +      +       +       +      +      +      +       +       +      +
DELETE /api/v1/session                            204    .      +      +       +       +      +      +      +       +       +      +
POST   /api/v1/session/password                   400    .      +      +       +       +      +      .      .       .       .      .
GET    /api/v1/tokens                             200    .      +      +       +       +      +      +      +       +       +      +
POST   /api/v1/tokens                             400    .      +      +       +       +      +      +      +       +       +      +
DELETE /api/v1/tokens/{token}                     404    .      +      +       +       +      +      +      +       +       +      +
GET    /api/v1/users                              200    .      .      .       .       .      +      .      .       .       .      +
POST   /api/v1/users                              400    .      .      .       .       .      +      .      .       .       .      +
PATCH  /api/v1/users/{user}                       400    .      .      .       .       .      +      .      .       .       .      +
DELETE /api/v1/users/{user}                       404    .      .      .       .       .      +      .      .       .       .      +
GET    /api/v1/overview                           200    .      +      +       +       +      +      +      .       .       .      .
GET    /api/v1/rings                              200    .      +      +       +       +      +      +      .       .       .      .
POST   /api/v1/rings                              400    .      .      .       .       +      +      .      .       .       +      .
GET    /api/v1/rings/{ring}                       404    .      +      +       +       +      +      +      .       .       .      .
DELETE /api/v1/rings/{ring}                       404    .      .      .       .       +      +      .      .       .       +      .
GET    /api/v1/rings/{ring}/status                404    .      +      +       +       +      +      +      .       .       .      .
GET    /api/v1/rings/{ring}/history               404    .      +      +       +       +      +      +      .       .       .      .
GET    /api/v1/rings/{ring}/settings              404    .      +      +       +       +      +      +      .       .       .      .
PATCH  /api/v1/rings/{ring}/settings              404    .      .      .       .       +      +      .      .       .       +      .
GET    /api/v1/rings/{ring}/rules                 404    .      +      +       +       +      +      +      .       .       .      .
POST   /api/v1/rings/{ring}/rules                 404    .      .      .       .       +      +      .      .       .       +      .
PUT    /api/v1/rings/{ring}/rules                 404    .      .      .       .       +      +      .      .       .       +      .
POST   /api/v1/rings/{ring}/rules/test            404    .      .      .       .       +      +      .      .       .       +      .
PUT    /api/v1/rings/{ring}/rules/{number}        404    .      .      .       .       +      +      .      .       .       +      .
DELETE /api/v1/rings/{ring}/rules/{number}        404    .      .      .       .       +      +      .      .       .       +      .
POST   /api/v1/rings/{ring}/rules/{number}/move   404    .      .      .       .       +      +      .      .       .       +      .
POST   /api/v1/rings/{ring}/disks                 404    .      .      .       .       +      +      .      .       .       +      .
POST   /api/v1/rings/{ring}/disks/resume          400    .      .      .       .       +      +      .      .       .       +      .
DELETE /api/v1/rings/{ring}/disks/{disk}          404    .      .      .       .       +      +      .      .       .       +      .
POST   /api/v1/rings/{ring}/disks/{disk}/resume   404    .      .      .       .       +      +      .      .       .       +      .
POST   /api/v1/rings/{ring}/disks/{disk}/replace  400    .      .      .       .       +      +      .      .       .       +      .
POST   /api/v1/rings/{ring}/disks/{disk}/locate   404    .      .      .       .       +      +      .      .       .       +      .
POST   /api/v1/rings/{ring}/estimate              404    .      .      .       +       +      +      .      .       +       .      .
POST   /api/v1/rings/{ring}/purge                 400    .      .      .       .       .      +      .      .       .       .      +
GET    /api/v1/rings/{ring}/packets               307    .      .      +       +       +      +      .      +       +       .      .
GET    /api/v1/disks                              200    .      +      +       +       +      +      +      .       .       .      .
GET    /api/v1/settings                           200    .      +      +       +       +      +      +      .       .       .      .
PATCH  /api/v1/settings                           400    .      .      .       .       +      +      .      .       .       +      .
GET    /api/v1/interfaces                         200    .      +      +       +       +      +      +      .       .       .      .
GET    /api/v1/apps                               200    .      +      +       +       +      +      +      .       .       .      .
GET    /api/v1/captures                           200    .      +      +       +       +      +      +      .       .       .      .
POST   /api/v1/captures                           400    .      .      .       .       +      +      .      .       .       +      .
DELETE /api/v1/captures/{ring}                    404    .      .      .       .       +      +      .      .       .       +      .
GET    /api/v1/events                             200    .      +      +       +       +      +      +      .       .       .      .
GET    /api/v1/audit                              200    .      .      .       .       .      +      .      .       .       .      +
GET    /api/v1/audit/verify                       200    .      .      .       .       .      +      .      .       .       .      +
GET    /api/v1/extractions                        200    .      .      .       +       +      +      .      .       +       .      .
POST   /api/v1/extractions                        400    .      .      +       +       +      +      .      +       +       .      .
DELETE /api/v1/extractions/{extraction}           404    .      .      +       +       +      +      .      +       +       .      .
GET    /api/v1/jobs                               200    .      .      .       +       +      +      .      .       +       .      .
POST   /api/v1/jobs                               400    .      .      .       +       +      +      .      .       +       .      .
GET    /api/v1/jobs/{job}                         404    .      .      .       +       +      +      .      .       +       .      .
DELETE /api/v1/jobs/{job}                         404    .      .      .       +       +      +      .      .       +       .      .
POST   /api/v1/jobs/{job}/cancel                  404    .      .      .       +       +      +      .      .       +       .      .
GET    /api/v1/jobs/{job}/packets                 404    .      .      .       +       +      +      .      .       +       .      .
GET    /api/v1/downloads/{ticket}                 404    +      +      +       +       +      +      +      +       +       +      +
GET    /metrics                                   200    .      +      +       +       +      +      +      .       .       .      .
POST   /packet_capture/capture/start              400    .      .      .       .       +      +      .      .       .       +      .
POST   /packet_capture/capture/stop               400    .      .      .       .       +      +      .      .       .       +      .
GET    /packet_capture/capture/status             200    .      +      +       +       +      +      +      .       .       .      .
GET    /packet_capture/capture/metrics            200    .      +      +       +       +      +      +      .       .       .      .
GET    /api/health/capture                        200    .      +      +       +       +      +      +      .       .       .      .
"""
ROLES = ["viewer", "viewer", "analyst", "operator", "admin"]
SCOPES = ["read", "headers", "packets", "control", "users"]
COLUMNS = ["nobody", "viewer", "viewer with headers", "analyst", "operator", "admin"] + [f"token {scope}" for scope in SCOPES]
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
# Names that fit into a path, of things that are not there.
VALUES = {"ring": "none", "user": "nobody", "token": "999", "extraction": "999", "job": "999", "ticket": "0", "number": "1", "disk": "999"}


def read_table():
    """{(method, path): (status, {column: whether he is let through})}"""
    table = {}
    for line in TABLE.strip().splitlines()[1:]:
        method, path, status, *cells = line.split()
        assert len(cells) == len(COLUMNS) and set(cells) <= {"+", "."} and (method, path) not in table, line
        table[method, path] = int(status), dict(zip(COLUMNS, (cell == "+" for cell in cells)))
    return table


class Table(unittest.TestCase):
    def test_no_route_is_missing(self):
        table = set(read_table())
        printed = subprocess.run([WEB, "--routes"], stdout=subprocess.PIPE, check=True, text=True).stdout
        self.assertEqual(table, {tuple(line.split()[:2]) for line in printed.splitlines()})
        self.assertEqual(table, set(DOCUMENT.operations))


class Roles(WebWorld):
    maxDiff = None

    def ask(self, caller, method, path):
        """The answer at this route, with nothing in its body."""
        port = caller.web.port + (path.startswith("/api/v1/downloads/") and not caller.local)
        path = re.sub(r"\{(\w+)\}", lambda found: VALUES[found[1]], path)
        return caller.ask(method, path, {} if method in ("POST", "PUT", "PATCH") else None, port=port, check=method != "HEAD")

    def check(self, column, caller):
        """One column of the table. Its caller is logged out at the end."""
        table, wrong = read_table(), []
        last = ("DELETE", "/api/v1/session")
        for key in [*(key for key in table if key != last), last]:
            status, allowed = table[key]
            answer = self.ask(caller, *key)
            wanted = (status,) if allowed[column] else (401, "unauthorized") if column == "nobody" else (403, "permission")
            if (answer.status, *((answer.json or {}).get("code") for _ in wanted[1:])) != wanted:
                wrong.append((*key, wanted, answer.status, answer.body))
        self.assertEqual(wrong, [], column)
        if caller.cookie and not caller.token:
            self.assertEqual(self.ask(caller, "GET", "/api/v1/session").status, 401)

    def check_half_right(self, caller):
        """What a user may do he may not do without the secret of his session, nor before his password is his own."""
        csrf, caller.csrf = caller.csrf, None
        for method, path in read_table():
            if method == "GET" or (method, path) == ("POST", "/api/v1/session"):
                continue
            self.problem(self.ask(caller, method, path), 403, "csrf")
        caller.csrf = csrf

    def check_new(self, caller):
        """Who has a password that somebody else has made up may change it, and nothing else."""
        for (method, path), (status, _) in read_table().items():
            answer = self.ask(caller, method, path)
            if path.startswith("/api/v1/session") or path.startswith("/api/v1/downloads/"):
                self.assertEqual(answer.status, status, (method, path))
                if (method, path) == ("DELETE", "/api/v1/session"):
                    self.assertEqual(caller.log_in("new", "first password").status, 200)
            else:
                self.problem(answer, 403, "password-change")

    def user(self, admin, name, role):
        self.assertEqual(admin.ask("POST", "/api/v1/users", {"user": name, "role": role, "password": "first password"}).status, 201)
        user = User(admin.web)
        self.assertEqual(user.log_in(name, "first password").status, 200)
        return user

    def own(self, user):
        self.assertEqual(user.set_password("first password", PASSWORD).status, 200)
        return user

    def test_every_route_with_every_caller(self):
        self.start()
        web = self.web()
        admin = self.admin(web)
        self.check("nobody", User(web))
        self.check_half_right(admin)
        for role in ("viewer", "analyst", "operator"):
            self.check(role, self.own(self.user(admin, role, role)))
        self.check_new(self.user(admin, "new", "admin"))
        tokens = {scope: self.token(admin, scope) for scope in SCOPES}
        for scope, token in tokens.items():
            self.check(f"token {scope}", token)
        self.check("admin", admin)
        # The same on the Unix socket, where there are tokens only; and viewers with a right more.
        self.assertEqual(web.stop(), 0)
        again = self.web("--viewer-headers")
        table = read_table()
        for scope, token in tokens.items():
            local = User(again, token=token.token, local=True)
            for key, (status, allowed) in table.items():
                answer = self.ask(local, *key)
                if key == ("POST", "/api/v1/session"):
                    self.problem(answer, 403, "permission")
                elif allowed[f"token {scope}"]:
                    self.assertEqual(answer.status, status, (scope, key, answer.body))
                else:
                    self.problem(answer, 403, "permission")
        viewer = User(again)
        self.assertEqual(viewer.log_in("viewer", PASSWORD).status, 200)
        self.check("viewer with headers", viewer)

    def test_methods_that_a_path_does_not_have(self):
        self.start()
        admin = self.admin(self.web())
        table = read_table()
        for path in sorted({path for _, path in table}):
            # One path may be two: disks/resume is also a disk of that name.
            known = {method for method, other in table if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", other), path)}
            for method in METHODS:
                if method in known or path.startswith("/api/v1/downloads/"):  # its server has nothing but that: 404
                    continue
                answer = self.ask(admin, method, path)
                self.assertEqual(answer.status, 405, (method, path))
                self.assertEqual(set(answer.headers["Allow"].split(", ")), known, (method, path))

    def test_a_token_never_has_more_than_its_user(self):
        self.start()
        admin = self.admin(self.web())
        users = {"admin": admin}
        for role in ("viewer", "analyst", "operator"):
            users[role] = self.own(self.user(admin, role, role))
        for role, scopes in (("viewer", {"read"}), ("analyst", {"read", "headers", "packets"}),
                             ("operator", {"read", "headers", "packets", "control"}), ("admin", set(SCOPES))):
            for scope in SCOPES:
                answer = users[role].ask("POST", "/api/v1/tokens", {"name": scope, "scopes": [scope]})
                self.assertEqual(answer.status, 201 if scope in scopes else 403, (role, scope, answer.body))


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    recorder_world.main()
