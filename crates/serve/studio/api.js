// Calls of the server. A token is only stored for this tab.

const KEY = 'tweedie-token';

function headers(more = {}) {
  const token = sessionStorage.getItem(KEY);
  return token ? { ...more, Authorization: `Bearer ${token}` } : more;
}

// Asks for the token once, however many calls need it.
let asking = null;
function askForToken() {
  asking ??= new Promise((done) => {
    const dialog = document.getElementById('token');
    const field = dialog.querySelector('input');
    dialog.addEventListener('close', () => {
      sessionStorage.setItem(KEY, field.value.trim());
      field.value = '';
      asking = null;
      done();
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}

async function send(path, options = {}) {
  for (;;) {
    const response = await fetch(path, { ...options, headers: headers(options.headers) });
    if (response.status === 401) {
      await askForToken();
      continue;
    }
    if (!response.ok) {
      const body = await response.json().catch(() => null);
      throw new Error(body?.error?.message ?? `the server answered ${response.status}`);
    }
    return response;
  }
}

export const get = async (path) => (await send(path)).json();
export const remove = (path) => send(path, { method: 'DELETE' });

/** Orders a job. */
export async function order(request) {
  const options = { method: 'POST', body: JSON.stringify(request), headers: { 'Content-Type': 'application/json' } };
  return (await send('/v1/jobs', options)).json();
}

/** Uploads a file and returns its SHA-256. */
export async function upload(file) {
  return (await (await send('/v1/uploads', { method: 'POST', body: file })).json()).sha256;
}

/** An earlier upload or a result as `{ sha256, url }`. */
export async function stored(sha256) {
  const blob = await (await send(`/v1/uploads/${sha256}`)).blob();
  return { sha256, url: URL.createObjectURL(new Blob([blob])) };
}

const LAST = ['finished', 'failed', 'cancelled'];

/** Calls `on(name, data)` for every event of a job until the last one, across lost connections. */
export async function follow(id, on) {
  let last = '';
  for (let pause = 500; ; pause = Math.min(2 * pause, 10000)) {
    try {
      const response = await send(`/v1/jobs/${id}/events`, { headers: last ? { 'Last-Event-ID': last } : {} });
      let text = '';
      for await (const part of parts(response.body)) {
        text += part;
        const events = text.split('\n\n');
        text = events.pop();
        for (const event of events.map(parse).filter((event) => event.event)) {
          [last, pause] = [event.id, 500];
          on(event.event, JSON.parse(event.data));
          if (LAST.includes(event.event)) return;
        }
      }
    } catch (error) {
      if (/there is no job/.test(error.message)) return on('failed', { error });
    }
    await new Promise((done) => setTimeout(done, pause));
  }
}

async function* parts(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (let part = await reader.read(); !part.done; part = await reader.read()) yield part.value;
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parse(text) {
  const fields = text.split('\n').map((line) => line.match(/^(\w+): ?(.*)$/)).filter(Boolean);
  return Object.fromEntries(fields.map(([, name, value]) => [name, value]));
}
