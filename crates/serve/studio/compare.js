// Two settings side by side, from the same noise.

import { follow, order } from './api.js';
import { changes, fault, read } from './form.js';
import { images, make } from './job.js';

const pair = document.getElementById('pair');

function side(request, heading) {
  const [place, state] = [make('div', { className: 'images' }), make('p', { className: 'hint', textContent: 'queued' })];
  pair.append(make('div', { className: 'side' }, make('h3', { textContent: heading }), state, place));
  return { request, place, state };
}

async function run({ request, place, state }) {
  const job = await order(request);
  const update = images(job, place);
  const begun = performance.now();
  await follow(job.id, (name, data) => {
    update(name, data);
    if (name === 'step') state.textContent = `step ${data.step} of ${data.steps}`;
    if (name === 'finished') state.textContent = `${((performance.now() - begun) / 1000).toFixed(1)} s`;
    if (name === 'failed' || name === 'cancelled') state.textContent = data.error?.message ?? name;
  });
}

const words = (request) =>
  [request.solver ?? 'the model’s solver', `${request.steps} steps`, request.guidance && `guidance ${request.guidance}`]
    .filter(Boolean).join(' · ');

/** Connects the form. */
export function start() {
  document.getElementById('other').addEventListener('submit', async (event) => {
    event.preventDefault();
    fault();
    try {
      const request = await read();
      const second = { ...request, ...changes() };
      pair.replaceChildren();
      await Promise.all([side(request, words(request)), side(second, words(second))].map(run));
    } catch (error) {
      fault(error);
    }
  });
}
