/** Cross-origin isolation, which branches in a tab need, for pages whose server does not send the headers: by a service worker (isolation-worker.ts). */
import { messageOf, PageliteError } from '../engine/errors.ts';

/** What only windows have: the types of this package are those that workers have, too. */
interface PageScope {
  readonly sessionStorage: {
    getItem(key: string): string | null;
    setItem(key: string, value: string): void;
    removeItem(key: string): void;
  };
  readonly location: { readonly href: string; reload(): void };
  readonly navigator: { readonly serviceWorker?: ServiceWorkerContainer };
}

/** What was tried for this page, while it is loaded again: each once. */
const triedKey = 'pagelite.isolating';

/**
 * Makes this page cross-origin isolated: registers the service worker at `workerUrl`, a copy of `pagelite/isolation-worker.js` on the page's own origin and
 * at or above its path, and loads the page again, once or (in Safari) twice. Resolves where the page is isolated, at once if its server sends the headers;
 * call it before anything else.
 *
 * Throws `invalid` where the browser does not isolate it: without service workers (a private window, a page that is not HTTPS or localhost), or a
 * worker that is not there.
 */
export async function isolatePage(workerUrl: string | URL): Promise<void> {
  const { sessionStorage, location, navigator } = globalThis as unknown as PageScope;
  const tried = sessionStorage.getItem(triedKey);
  sessionStorage.removeItem(triedKey);
  if (globalThis.crossOriginIsolated) return;
  const workers = navigator.serviceWorker;
  if (!workers) {
    throw notIsolated('this browser, or this page, has no service workers: HTTPS or localhost, not a private window');
  }
  if (tried !== null && workers.controller === null) throw notIsolated(`the page is not in the scope of ${workerUrl}`);
  if (tried === 'require-corp') throw notIsolated('this browser does not isolate it');
  const url = new URL(workerUrl, location.href);
  if (tried === 'credentialless') url.searchParams.set('coep', 'require-corp');
  try {
    await activated(await workers.register(url));
  } catch (error) {
    throw notIsolated(messageOf(error));
  }
  sessionStorage.setItem(triedKey, tried === null ? 'credentialless' : 'require-corp');
  location.reload();
  // This page ends here.
  await new Promise(() => {});
}

/** Resolves when it answers for the page's next load. */
function activated({ active, installing, waiting }: ServiceWorkerRegistration): Promise<void> {
  const worker = installing ?? waiting;
  if (active !== null || worker === null) return Promise.resolve();
  return new Promise((resolve, reject) => {
    const look = () => {
      if (worker.state === 'activated') resolve();
      else if (worker.state === 'redundant') reject(new Error(`${worker.scriptURL} was not installed`));
    };
    worker.addEventListener('statechange', look);
    look();
  });
}

function notIsolated(reason: string): PageliteError {
  const headers =
    'Cross-Origin-Opener-Policy: same-origin, Cross-Origin-Embedder-Policy: require-corp or credentialless';
  return new PageliteError('invalid', `this page cannot be isolated: ${reason}. Have its server send ${headers}`);
}
