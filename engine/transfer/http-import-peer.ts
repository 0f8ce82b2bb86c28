/**
 * A server's pageserver as the receiver of layers, over its HTTP API (server/pageserver/transfer-api.ts): of a push from a tab, or of a data directory.
 * How a request is made is the host's.
 */
import type { PageliteError } from '../errors.ts';
import type { TenantTimelineId } from '../model/ids.ts';
import { parseLsn } from '../model/lsn.ts';
import { type ImportManifest, manifestToJson } from './import-manifest.ts';
import type { ImportPeer } from './push-timeline.ts';
import type { ImportState } from './timeline-imports.ts';

/** Calls that are answered with an object. Rejects with the server's error, or `unavailable`. */
export interface JsonCalls {
  call(
    method: string,
    path: string,
    body: string | Uint8Array<ArrayBuffer> | null,
    signal?: AbortSignal,
  ): Promise<object>;
  /** An answer that is not one. */
  unexpected(answer: object): PageliteError;
}

export class HttpImportPeer implements ImportPeer {
  readonly #api: JsonCalls;

  constructor(api: JsonCalls) {
    this.#api = api;
  }

  async begin(id: TenantTimelineId, manifest: ImportManifest, signal?: AbortSignal): Promise<ImportState> {
    const body = JSON.stringify(manifestToJson(manifest));
    const answer = await this.#api.call('POST', importPath(id), body, signal);
    const { import_id: importId, missing, at_lsn: lsn } = answer as Record<string, unknown>;
    if (lsn === null) return { kind: 'at', lsn };
    if (typeof lsn === 'string') return { kind: 'at', lsn: parseLsn(lsn) };
    if (typeof importId !== 'string' || !Array.isArray(missing) || !missing.every(isMissing)) {
      throw this.#api.unexpected(answer);
    }
    return { kind: 'open', importId, missing };
  }

  async put(
    id: TenantTimelineId,
    importId: string,
    name: string,
    offset: number,
    bytes: Uint8Array,
    signal?: AbortSignal,
  ): Promise<number> {
    const path = `${importPath(id)}/${importId}/layer/${name}?offset=${offset}`;
    const answer = await this.#api.call('PUT', path, bytes as Uint8Array<ArrayBuffer>, signal);
    const { received } = answer as { received?: unknown };
    if (typeof received !== 'number') throw this.#api.unexpected(answer);
    return received;
  }

  async commit(id: TenantTimelineId, importId: string, signal?: AbortSignal): Promise<void> {
    await this.#api.call('POST', `${importPath(id)}/${importId}/commit`, null, signal);
  }

  async abort(id: TenantTimelineId, importId: string): Promise<void> {
    await this.#api.call('DELETE', `${importPath(id)}/${importId}`, null);
  }
}

const importPath = (id: TenantTimelineId) => `/v1/tenant/${id.tenantId}/timeline/${id.timelineId}/import`;

function isMissing(layer: unknown): boolean {
  const { name, received } = (layer ?? {}) as Record<string, unknown>;
  return typeof name === 'string' && Number.isSafeInteger(received) && (received as number) >= 0;
}
