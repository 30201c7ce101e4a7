/*
 * account_handlers.c - sessions, tokens, users.
 */
#include <civetweb.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "access.h"
#include "handing_on.h"
#include "handlers.h"
#include "web_server.h"

#define TOKEN_DAYS_MAX 3660

static int fail_store(struct failure *failure, int code, const char *what)
{
    switch (code) {
    case ERR_NOT_FOUND:
        return fail(failure, code, "there is no such %s", what);
    case ERR_EXISTS:
        return fail(failure, code, "there is a %s of that name", what);
    case ERR_BUSY:
        return fail(failure, code, "the last admin stays: make another one first");
    case ERR_TOO_LARGE:
        return fail(failure, code, "that would be too many: delete a %s that is not needed", what);
    default:
        return fail(failure, code, "%s: %s", what, error_text(code));
    }
}

/*
 * Changes of web.db are in the audit log twice, as the recorder's own are: that they begin, and what
 * came of them. What is asked for and makes no sense does not begin.
 */
static void note_begin(const struct exchange *exchange, const char *action, const char *what)
{
    audit(exchange, action, "begun", "%s", what);
}

static int note_end(const struct exchange *exchange, const char *action, const char *what, int code,
                    const struct failure *failure)
{
    audit(exchange, action, code == 0 ? "done" : failure->text, "%s", what);
    return code;
}

/* ---- sessions -------------------------------------------------------------------------------- */

static json_t *session_json(const struct caller *caller)
{
    return json_pack("{s:s, s:s, s:o, s:b, s:o}", "user", caller->name, "role",
                     role_name(caller->role), "scopes", rights_json(caller->rights),
                     "must_change_password", (int)caller->must_change, "csrf_token",
                     caller->by_cookie ? json_string(caller->csrf) : json_null());
}

/* Too many passwords are tried; wait_s 0: by everybody together. */
static int answer_wait(struct exchange *exchange, unsigned wait_s, const struct failure *failure)
{
    char line[48];
    snprintf(line, sizeof line, "Retry-After: %u\r\n", wait_s ? wait_s : 5);
    return answer_problem(exchange, 429, "again", failure->text, line);
}

int handle_session_begin(struct exchange *exchange)
{
    struct failure failure = {0};
    const char *name, *password;
    char cookie[COOKIE_LINE_SIZE];
    unsigned wait_s = 0;
    if (exchange->entrance == ENTRANCE_LOCAL)
        return answer_problem(exchange, 403, "permission",
                              "there are no sessions on this socket: send a token", NULL);
    int code = exchange_check_body(exchange, "user password", &failure);
    if (code == 0)
        code = exchange_body_string(exchange, "user", true, &name, &failure);
    if (code == 0)
        code = exchange_body_string(exchange, "password", true, &password, &failure);
    if (code != 0)
        return answer_failure(exchange, &failure);
    code = access_log_in(exchange, name, password, cookie, &wait_s, &failure);
    if (code == ERR_AGAIN || code == ERR_BUSY)
        return answer_wait(exchange, wait_s, &failure);
    if (code == ERR_PERMISSION) {
        audit(exchange, "log-in", "refused", "as %.63s", name);
        return answer_problem(exchange, 401, "unauthorized", failure.text, NULL);
    }
    if (code != 0)
        return answer_failure(exchange, &failure);
    audit(exchange, "log-in", "done", "as %.63s", name);
    return answer_json(exchange, 200, session_json(&exchange->caller), cookie);
}

int handle_session(struct exchange *exchange)
{
    return answer_json(exchange, 200, session_json(&exchange->caller), NULL);
}

int handle_session_end(struct exchange *exchange)
{
    if (exchange->caller.by_cookie)
        (void)web_store_delete_session(exchange->server->store, exchange->caller.secret);
    audit(exchange, "log-out", "done", "as %s", exchange->caller.name);
    return answer_nothing(exchange, access_no_cookie);
}

static int set_password(struct exchange *exchange, const char *name, const char *password,
                        bool must_change, struct failure *failure)
{
    char hash[PASSWORD_HASH_SIZE];
    int code = password_check_new(password, failure);
    if (code == 0)
        code = password_hash(password, hash, failure);
    if (code != 0)
        return code;
    code = web_store_set_password(exchange->server->store, name, hash, must_change);
    return code == 0 ? 0 : fail_store(failure, code, "user");
}

/* All sessions of the user end with the old password; the one that asks gets a new one. */
int handle_session_password(struct exchange *exchange)
{
    struct failure failure = {0};
    const char *old, *password;
    char cookie[COOKIE_LINE_SIZE];
    const char *name = exchange->caller.name;
    unsigned wait_s = 0;
    if (!exchange->caller.by_cookie)
        return answer_problem(exchange, 403, "permission",
                              "a token cannot change its user's password", NULL);
    int code = exchange_check_body(exchange, "old_password password", &failure);
    if (code == 0)
        code = exchange_body_string(exchange, "old_password", true, &old, &failure);
    if (code == 0)
        code = exchange_body_string(exchange, "password", true, &password, &failure);
    if (code == 0)
        code = access_check_password(exchange, name, old, &wait_s, &failure);
    if (code == ERR_AGAIN || code == ERR_BUSY)
        return answer_wait(exchange, wait_s, &failure);
    if (code == ERR_PERMISSION) { /* who has found a session open may not guess what would let him keep it */
        audit(exchange, "password", "refused", "of %s", name);
        fail(&failure, code, "the old password is wrong");
    }
    if (code == 0 && strcmp(old, password) == 0)
        code = fail(&failure, ERR_INVALID, "that is the old password");
    if (code == 0)
        code = password_check_new(password, &failure);
    if (code == 0) {
        note_begin(exchange, "password", name);
        code = note_end(exchange, "password", name, set_password(exchange, name, password, false, &failure),
                        &failure);
    }
    if (code == 0) {
        exchange->caller.must_change = false;
        code = access_begin_session(exchange, cookie, &failure);
    }
    if (code != 0)
        return answer_failure(exchange, &failure);
    return answer_json(exchange, 200, session_json(&exchange->caller), cookie);
}

/* ---- tokens ---------------------------------------------------------------------------------- */

static json_t *token_json(const struct web_token *token)
{
    return json_pack("{s:I, s:s, s:o, s:I, s:o}", "token", (json_int_t)token->number, "name",
                     token->name, "scopes", rights_json(token->rights), "created_s",
                     (json_int_t)token->created_s, "expires_s",
                     token->expires_s ? json_integer((json_int_t)token->expires_s) : json_null());
}

static int append_token(const struct web_token *token, void *context)
{
    return json_array_append_new(context, token_json(token)) == 0 ? 0 : ERR_NO_MEMORY;
}

int handle_tokens(struct exchange *exchange)
{
    struct failure failure = {0};
    json_t *tokens = json_array();
    int code =
        web_store_tokens(exchange->server->store, exchange->caller.name, append_token, tokens);
    if (code != 0) {
        json_decref(tokens);
        fail_store(&failure, code, "token");
        return answer_failure(exchange, &failure);
    }
    return answer_json(exchange, 200, json_pack("{s:o}", "tokens", tokens), NULL);
}

static int take_token(const struct exchange *exchange, struct web_token *token,
                      struct failure *failure)
{
    const char *name;
    const json_t *days = json_object_get(exchange->body, "days");
    int code = exchange_check_body(exchange, "name scopes days", failure);
    if (code == 0)
        code = exchange_body_string(exchange, "name", true, &name, failure);
    if (code == 0)
        code = rights_parse(json_object_get(exchange->body, "scopes"), &token->rights, failure);
    if (code != 0)
        return code;
    json_int_t count = json_integer_value(days);
    if (strlen(name) == 0 || strlen(name) > TOKEN_NAME_MAX)
        return fail(failure, ERR_INVALID, "name: expected 1 to %u bytes", TOKEN_NAME_MAX);
    if (days && !json_is_null(days) &&
        (!json_is_integer(days) || count < 1 || count > TOKEN_DAYS_MAX))
        return fail(failure, ERR_INVALID,
                    "days: expected 1 to %d, or nothing: good until it is deleted", TOKEN_DAYS_MAX);
    if (token->rights & ~exchange->caller.rights)
        return fail(failure, ERR_PERMISSION, "a token cannot have a scope that you do not have");
    snprintf(token->name, sizeof token->name, "%s", name);
    snprintf(token->user, sizeof token->user, "%s", exchange->caller.name);
    token->created_s = time(NULL);
    token->expires_s = count ? token->created_s + count * 86400 : 0;
    return 0;
}

int handle_token_create(struct exchange *exchange)
{
    struct failure failure = {0};
    struct web_token token = {0};
    char secret[SECRET_TEXT_SIZE], shown[SECRET_TEXT_SIZE + 3], what[TOKEN_NAME_MAX + 32];
    uint8_t digest[SECRET_DIGEST_BYTES];
    int code = take_token(exchange, &token, &failure);
    if (code == 0 && secret_make(secret) != 0)
        code = fail(&failure, ERR_INTERNAL, "the random generator failed");
    if (code == 0) {
        secret_digest("token", secret, digest);
        note_begin(exchange, "token-create", token.name);
        code = web_store_put_token(exchange->server->store, digest, &token);
        if (code != 0)
            fail_store(&failure, code, "token");
        snprintf(what, sizeof what, "%" PRId64 " (%s)", token.number, token.name);
        (void)note_end(exchange, "token-create", what, code, &failure);
    }
    if (code != 0)
        return answer_failure(exchange, &failure);
    snprintf(shown, sizeof shown, "tl_%s", secret);
    json_t *answer = token_json(&token);
    json_object_set_new(answer, "secret", json_string(shown));
    return answer_json(exchange, 201, answer, NULL);
}

int handle_token_delete(struct exchange *exchange)
{
    struct failure failure = {0};
    char *end;
    long long number = strtoll(exchange->parameter[0], &end, 10);
    note_begin(exchange, "token-delete", exchange->parameter[0]);
    int code = *end
                   ? ERR_NOT_FOUND
                   : web_store_delete_token(exchange->server->store, exchange->caller.name, number);
    if (code != 0)
        fail_store(&failure, code, "token");
    (void)note_end(exchange, "token-delete", exchange->parameter[0], code, &failure);
    if (code != 0)
        return answer_failure(exchange, &failure);
    return answer_nothing(exchange, NULL);
}

/* ---- users ----------------------------------------------------------------------------------- */

static json_t *user_json(const struct web_user *user)
{
    return json_pack("{s:s, s:s, s:b, s:I}", "user", user->name, "role", role_name(user->role),
                     "must_change_password", (int)user->must_change, "created_s",
                     (json_int_t)user->created_s);
}

static int append_user(const struct web_user *user, void *context)
{
    return json_array_append_new(context, user_json(user)) == 0 ? 0 : ERR_NO_MEMORY;
}

int handle_users(struct exchange *exchange)
{
    struct failure failure = {0};
    json_t *users = json_array();
    int code = web_store_users(exchange->server->store, append_user, users);
    if (code != 0) {
        json_decref(users);
        fail_store(&failure, code, "user");
        return answer_failure(exchange, &failure);
    }
    return answer_json(exchange, 200, json_pack("{s:o}", "users", users), NULL);
}

/* The answer about one user, after a change. */
static int answer_user(struct exchange *exchange, int status, const char *name)
{
    struct failure failure = {0};
    struct web_user user;
    int code = web_store_user(exchange->server->store, name, &user);
    if (code == 0)
        return answer_json(exchange, status, user_json(&user), NULL);
    fail_store(&failure, code, "user");
    return answer_failure(exchange, &failure);
}

/* Whoever the password was made up by, it is the user's own only after he has changed it. */
int handle_user_create(struct exchange *exchange)
{
    struct failure failure = {0};
    const char *name, *role, *password;
    char what[USER_NAME_MAX + 32];
    struct web_user user = {.must_change = true, .created_s = time(NULL)};
    int found = 0, code = exchange_check_body(exchange, "user role password", &failure);
    if (code == 0)
        code = exchange_body_string(exchange, "user", true, &name, &failure);
    if (code == 0)
        code = exchange_body_string(exchange, "role", true, &role, &failure);
    if (code == 0)
        code = exchange_body_string(exchange, "password", true, &password, &failure);
    if (code == 0)
        code = web_store_check_name(name, &failure);
    if (code == 0 && (found = role_find(role, &failure)) < 0)
        code = found;
    if (code == 0)
        code = password_check_new(password, &failure);
    if (code == 0)
        code = password_hash(password, user.password, &failure);
    if (code == 0) {
        snprintf(user.name, sizeof user.name, "%s", name);
        user.role = (enum role)found;
        snprintf(what, sizeof what, "%s (%s)", user.name, role_name(user.role));
        note_begin(exchange, "user-create", what);
        code = web_store_add_user(exchange->server->store, &user);
        if (code != 0)
            fail_store(&failure, code, "user");
        (void)note_end(exchange, "user-create", what, code, &failure);
    }
    if (code != 0)
        return answer_failure(exchange, &failure);
    return answer_user(exchange, 201, user.name);
}

int handle_user_change(struct exchange *exchange)
{
    struct failure failure = {0};
    const char *name = exchange->parameter[0], *role = NULL, *password = NULL;
    char what[USER_NAME_MAX + 64];
    struct web_user user;
    int found = 0, code = exchange_check_body(exchange, "role password", &failure);
    if (code == 0)
        code = exchange_body_string(exchange, "role", false, &role, &failure);
    if (code == 0)
        code = exchange_body_string(exchange, "password", false, &password, &failure);
    if (code == 0 && !role && !password)
        code = fail(&failure, ERR_INVALID, "expected a role, a password, or both");
    if (code == 0 && role && (found = role_find(role, &failure)) < 0)
        code = found;
    if (code == 0 && (code = web_store_user(exchange->server->store, name, &user)) != 0)
        fail_store(&failure, code, "user");
    if (code == 0 && password)
        code = password_check_new(password, &failure);
    if (code != 0)
        return answer_failure(exchange, &failure);
    snprintf(what, sizeof what, "%.63s%s%s%s", user.name, role ? ": role " : "", role ? role : "",
             password ? ", password" : "");
    note_begin(exchange, "user-change", what);
    if (password)
        code = set_password(exchange, name, password, true, &failure);
    if (code == 0 && role &&
        (code = web_store_set_role(exchange->server->store, name, (enum role)found)) != 0)
        fail_store(&failure, code, "user");
    if (note_end(exchange, "user-change", what, code, &failure) != 0)
        return answer_failure(exchange, &failure);
    return answer_user(exchange, 200, name);
}

int handle_user_delete(struct exchange *exchange)
{
    struct failure failure = {0};
    note_begin(exchange, "user-delete", exchange->parameter[0]);
    int code = web_store_delete_user(exchange->server->store, exchange->parameter[0]);
    if (code != 0)
        fail_store(&failure, code, "user");
    if (note_end(exchange, "user-delete", exchange->parameter[0], code, &failure) != 0)
        return answer_failure(exchange, &failure);
    return answer_nothing(exchange, NULL);
}
