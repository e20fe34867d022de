// Starts the studio: views, keys, themes.

import { get, order } from './api.js';
import * as compare from './compare.js';
import * as form from './form.js';
import * as gallery from './gallery.js';
import { cancelNewest, show } from './job.js';

const settings = document.getElementById('settings');
const tabs = [...document.querySelectorAll('[role=tab]')];

function select(tab) {
  for (const other of tabs) {
    const chosen = other === tab;
    other.setAttribute('aria-selected', chosen);
    other.tabIndex = chosen ? 0 : -1;
    document.getElementById(other.getAttribute('aria-controls')).hidden = !chosen;
  }
  if (tab.id === 'tab-gallery') gallery.load().catch(form.fault);
}

for (const tab of tabs) {
  tab.addEventListener('click', () => select(tab));
  tab.addEventListener('keydown', (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = tabs[(tabs.indexOf(tab) + step + tabs.length) % tabs.length];
    select(next);
    next.focus();
  });
}

const started = form.start();

settings.addEventListener('submit', async (event) => {
  event.preventDefault();
  form.fault();
  select(tabs[0]);
  try {
    await started;
    await show(await order(await form.read()));
  } catch (error) {
    form.fault(error);
  }
});

document.addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) settings.requestSubmit();
  else if (event.key === 'Escape' && !document.querySelector('dialog[open]')) cancelNewest();
  else if (event.key === '/' && !/INPUT|TEXTAREA|SELECT/.test(event.target.tagName)) {
    event.preventDefault();
    settings.elements.prompt.focus();
  }
});

const root = document.documentElement;
root.dataset.theme = localStorage.getItem('tweedie-theme') ?? '';
document.getElementById('theme').addEventListener('click', () => {
  const dark = root.dataset.theme ? root.dataset.theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
  root.dataset.theme = dark ? 'light' : 'dark';
  localStorage.setItem('tweedie-theme', root.dataset.theme);
});

compare.start();
gallery.start(() => select(tabs[0]), async (request) => show(await order(request)));
try {
  await started;
  // Jobs that were running when the page was closed are shown again.
  const { jobs } = await get('/v1/gallery?limit=20');
  for (const job of jobs.reverse()) {
    if (job.state === 'queued' || job.state === 'running') show(job).catch(form.fault);
  }
} catch (error) {
  form.fault(error);
}
