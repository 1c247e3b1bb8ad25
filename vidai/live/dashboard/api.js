// Asking the worker.

/** It did not answer at all. */
export class Gone extends Error {}

/** It refused; the message is its sentence. */
export class Refused extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

/** The JSON of an answer, null where there is none. Throws Gone or Refused. */
export async function ask(path, method = "GET", body = undefined) {
  let response, told;
  try {
    response = await fetch(path, {
      method,
      headers: body === undefined ? {} : { "content-type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: AbortSignal.timeout(10_000),
    });
    told = response.status === 204 ? null : await response.json();
  } catch (error) {
    throw new Gone(`the worker does not answer (${error.message})`);
  }
  if (!response.ok) throw new Refused(response.status, told.error ?? told.reason);
  return told;
}
