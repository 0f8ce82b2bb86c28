/**
 * What the ready bundle has beside its workers, packed with gzip (server/console/build-bundle-files.ts): the template of new databases, which spares
 * initdb, and the contrib modules.
 */

/** Null where there is none, as in a bundle that an npm user made. Rejects if the network fails. */
export async function fetchBundled(file: string): Promise<Uint8Array | null> {
  const response = await fetch(new URL(/* @vite-ignore */ `${file}.gz`, import.meta.url));
  // A development server answers what it has not with a page.
  const isPage = response.headers.get('content-type')?.startsWith('text/html') ?? false;
  if (!response.ok || isPage || response.body === null) return null;
  const unpacked = response.body.pipeThrough(new DecompressionStream('gzip'));
  return new Uint8Array(await new Response(unpacked).arrayBuffer());
}
