/**
 * The tenant template that the ready bundle has beside its workers (server/console/build-template.ts): three megabytes over the wire instead of the
 * seconds that initdb takes. Null where there is none, as in a bundle that an npm user made.
 */
import { templateKey } from './local/tab-template.ts';

export async function fetchBundledTemplate(): Promise<Uint8Array | null> {
  const file = `${templateKey}.gz`;
  const response = await fetch(new URL(/* @vite-ignore */ file, import.meta.url));
  // A development server answers what it has not with a page.
  const isPage = response.headers.get('content-type')?.startsWith('text/html') ?? false;
  if (!response.ok || isPage || response.body === null) return null;
  const unpacked = response.body.pipeThrough(new DecompressionStream('gzip'));
  return new Uint8Array(await new Response(unpacked).arrayBuffer());
}
