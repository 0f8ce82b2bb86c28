/** A backend for the compute worker that a test sets up first: PGlite's own query API works before it serves. */
import { PGlite } from '@electric-sql/pglite';

export async function openBackend(data: unknown): Promise<PGlite> {
  const pglite = await PGlite.create();
  const { setUp } = (data ?? {}) as { setUp?: string };
  if (setUp !== undefined) await pglite.exec(setUp);
  return pglite;
}
