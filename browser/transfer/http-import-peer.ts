/**
 * A server's pageserver as the receiver of a push, over its HTTP API (server/pageserver/transfer-api.ts).
 */
import type { TenantTimelineId } from '../../engine/model/ids.ts';
import { parseLsn } from '../../engine/model/lsn.ts';
import { type ImportManifest, manifestToJson } from '../../engine/transfer/import-manifest.ts';
import type { ImportPeer } from '../../engine/transfer/push-timeline.ts';
import type { ImportState } from '../../engine/transfer/timeline-imports.ts';
import type { HttpJson } from './http-json.ts';

export class HttpImportPeer implements ImportPeer {
  readonly #api: HttpJson;

  constructor(api: HttpJson) {
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
}

const importPath = (id: TenantTimelineId) => `/v1/tenant/${id.tenantId}/timeline/${id.timelineId}/import`;

function isMissing(layer: unknown): boolean {
  const { name, received } = (layer ?? {}) as Record<string, unknown>;
  return typeof name === 'string' && Number.isSafeInteger(received) && (received as number) >= 0;
}
