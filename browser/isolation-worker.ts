/**
 * A service worker that makes the pages of its origin cross-origin isolated, where nobody can set their server's headers, such as on a static host. To be
 * copied beside the pages, from `pagelite/isolation-worker.js`; isolate-page.ts registers it.
 *
 * It answers for documents and workers alone, from the network, with the headers added; everything else passes by it. `credentialless`: images and
 * scripts of other origins load as before, without cookies. For browsers that do not know that (Safari) it is registered with `?coep=require-corp`. It
 * keeps nothing: without a network a page is what it was without this worker.
 */
interface FetchEvent extends Event {
  readonly request: Request;
  respondWith(response: Promise<Response>): void;
}
interface ServiceWorkerScope {
  addEventListener(kind: 'fetch', handler: (event: FetchEvent) => void): void;
  addEventListener(
    kind: 'install' | 'activate',
    handler: (event: { waitUntil(done: Promise<unknown>): void }) => void,
  ): void;
  skipWaiting(): Promise<void>;
  readonly location: { readonly search: string };
  readonly clients: { claim(): Promise<void> };
}

const scope = globalThis as unknown as ServiceWorkerScope;
const embedderPolicy =
  new URLSearchParams(scope.location.search).get('coep') === 'require-corp' ? 'require-corp' : 'credentialless';
const needHeaders: ReadonlySet<RequestDestination> = new Set(['document', 'iframe', 'frame', 'worker', 'sharedworker']);

scope.addEventListener('install', (event) => event.waitUntil(scope.skipWaiting()));
scope.addEventListener('activate', (event) => event.waitUntil(scope.clients.claim()));
scope.addEventListener('fetch', (event) => {
  if (needHeaders.has(event.request.destination)) event.respondWith(isolated(event.request));
});

async function isolated(request: Request): Promise<Response> {
  const response = await fetch(request);
  // Redirects and opaque answers are the browser's to handle.
  if (response.status === 0) return response;
  const headers = new Headers(response.headers);
  headers.set('Cross-Origin-Opener-Policy', 'same-origin');
  headers.set('Cross-Origin-Embedder-Policy', embedderPolicy);
  const { status, statusText } = response;
  return new Response(response.body, { status, statusText, headers });
}
