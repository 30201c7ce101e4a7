// The API: /api/v1, as schema/openapi.yaml describes it.

export class Problem extends Error {
  constructor(problem) {
    super(problem.detail || problem.title);
    this.status = problem.status;
    this.code = problem.code;
  }
}

let csrf = null;

// `tag`: the change is refused where what it is about has another one by now. `signal`: gives the question up.
export async function ask(method, path, body, tag, signal) {
  const headers = {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (csrf && method !== "GET") headers["X-CSRF-Token"] = csrf;
  if (tag !== undefined) headers["If-Match"] = `"${tag}"`;
  let response, text;
  try {
    response = await fetch(`/api/v1${path}`, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      credentials: "same-origin",
      signal,
    });
    text = await response.text();
  } catch {
    throw new Problem({ status: 0, code: "unreachable", detail: "tapeloop-web cannot be reached" });
  }
  let json = null;
  try {
    json = text ? JSON.parse(text) : null;
  } catch {
    throw new Problem({ status: response.status, code: "protocol", detail: "an answer came that makes no sense" });
  }
  if (!response.ok) throw new Problem(json || { status: response.status, detail: `status ${response.status}` });
  if (json && json.csrf_token) csrf = json.csrf_token;
  return json;
}

// A name as a part of a path.
export const part = encodeURIComponent;
