/**
 * Who a tenant is attached to. Pageservers that have an object store in common need no referee: whoever attaches a tenant claims the next
 * generation of it by creating an object that nobody has created before.
 *
 *   tenants/<tenant>/generation-0000000a      {"version":1,"generation":10,"node_id":1}\n<CRC32C>\n
 *   tenants/<tenant>/deleted.json             {"version":1}\n<CRC32C>\n
 *
 * The newest claim is the owner's; without a node (`node_id` null) the tenant is detached. What a pageserver writes, it writes under names with
 * its generation (layers, index), so one that was replaced without noticing overwrites nothing. What it deletes, it deletes after a look at the claims
 * (`check`): then nobody newer has read an index that names it.
 *
 * Why that holds: an owner stores an index that no longer names a layer, looks at the claims, and deletes the layer. A newer owner claims first and
 * reads the index second. If the look saw no newer claim, the newer owner reads the index that was stored before it.
 *
 * A tenant that was deleted stays so: claims, and with them everything else of it, are gone but for the note of its deletion, and its id is not used again. An
 * owner of before finds that its claim is gone, and is fenced; what it has stored until then is waste.
 *
 * A host whose store nobody else can reach (a tab that holds a lock) has generation 0 and makes no claims, and keeps no such notes.
 * Source: Neon's generation numbers (docs/rfcs/025-generation-numbers.md), with claims where Neon has a control plane.
 */
import { isPageliteError, PageliteError } from '../errors.ts';
import { type NodeId, nodeId, type TenantId } from '../model/ids.ts';
import type { ObjectStore } from '../services.ts';
import { decodeVersioned, encodeChecked, tenantFolder } from './index-part.ts';

const claimVersion = 1;
const claimPrefix = 'generation-';
const claimPattern = /^generation-([0-9a-f]{8})$/;
const generationMax = 0xffffffff;
/** Others that claim at the same moment: each attempt sees a higher one. */
const claimAttemptsMax = 20;

/** Of a tenant's folder: its deletion has begun, or is done and nothing else is there. */
export const deletedFile = 'deleted.json';

export async function isTenantDeleted(store: ObjectStore, tenant: TenantId): Promise<boolean> {
  return (await store.head(tenantFolder(tenant) + deletedFile)) !== null;
}

export interface TenantClaim {
  readonly generation: number;
  /** Null: detached. */
  readonly nodeId: NodeId | null;
}

/** 8 hex digits, as in names of layers and indexes. */
export const formatGeneration = (generation: number): string => generation.toString(16).padStart(8, '0');

/** Of a file in a tenant's folder: the claim's generation, or null if it is none. */
export function parseClaimName(file: string): number | null {
  const match = claimPattern.exec(file);
  return match === null ? null : Number.parseInt(match[1]!, 16);
}

/** The owner's claim; null if nobody has claimed the tenant yet. Throws `corrupt`, naming the object. */
export async function newestClaim(store: ObjectStore, tenant: TenantId): Promise<TenantClaim | null> {
  for (;;) {
    const generation = await newestGeneration(store, tenant);
    if (generation === 0) return null;
    const key = claimKey(tenant, generation);
    const found = await store.get(key);
    // Its owner was replaced meanwhile, and the new one has removed it.
    if (found !== null) return decodeClaim(found.bytes, key);
  }
}

/** Claims the tenant for a node, or (null) for nobody. Removes older claims. Throws `notFound` if the tenant is deleted. */
export async function claimTenant(store: ObjectStore, tenant: TenantId, node: NodeId | null): Promise<number> {
  for (let attempt = 0; attempt < claimAttemptsMax; attempt++) {
    const before = await claims(store, tenant);
    const generation = Math.max(0, ...before) + 1;
    if (generation > generationMax) {
      throw new PageliteError('invalid', `tenant ${tenant} has no generations left`, { tenantId: tenant });
    }
    const line = JSON.stringify({ version: claimVersion, generation, node_id: node });
    try {
      await store.put(claimKey(tenant, generation), encodeChecked(line), { ifAbsent: true });
    } catch (error) {
      if (isPageliteError(error, 'invalid')) continue;
      throw error;
    }
    // Whoever deletes a tenant notes it first and looks for claims second: one of the two sees the other.
    if (await isTenantDeleted(store, tenant)) {
      await store.delete(claimKey(tenant, generation));
      throw new PageliteError('notFound', `tenant ${tenant} was deleted`, { tenantId: tenant });
    }
    for (const old of before) await store.delete(claimKey(tenant, old));
    return generation;
  }
  throw new PageliteError('unavailable', `others keep claiming tenant ${tenant}: is a node id used twice?`, {
    tenantId: tenant,
  });
}

/** A tenant as this process has attached it. */
export class TenantAttachment {
  readonly tenantId: TenantId;
  /** 0: nobody else has the store. */
  readonly generation: number;
  readonly #store: ObjectStore;

  constructor(store: ObjectStore, tenant: TenantId, generation: number) {
    this.#store = store;
    this.tenantId = tenant;
    this.generation = generation;
  }

  /** Throws `fenced` if somebody has attached or deleted the tenant since: if its claim is not there, or not the newest. */
  async check(): Promise<void> {
    if (this.generation === 0) return;
    const newest = await newestGeneration(this.#store, this.tenantId);
    if (newest === this.generation) return;
    throw new PageliteError(
      'fenced',
      `tenant ${this.tenantId} ${await this.#fate(newest)}; here it was attached with generation ${this.generation}`,
      { tenantId: this.tenantId, generation: this.generation, newestGeneration: newest },
    );
  }

  async #fate(newest: number): Promise<string> {
    if (newest > this.generation) {
      const claim = await newestClaim(this.#store, this.tenantId);
      const who = claim?.nodeId == null ? 'was detached' : `was attached to pageserver ${claim.nodeId}`;
      return `${who} (generation ${newest})`;
    }
    if (await isTenantDeleted(this.#store, this.tenantId)) return 'was deleted';
    return 'is not claimed any more: its objects are gone from the store';
  }
}

async function newestGeneration(store: ObjectStore, tenant: TenantId): Promise<number> {
  return Math.max(0, ...(await claims(store, tenant)));
}

async function claims(store: ObjectStore, tenant: TenantId): Promise<number[]> {
  const folder = tenantFolder(tenant);
  const found = await store.list(folder + claimPrefix);
  return found.map(({ key }) => parseClaimName(key.slice(folder.length))).filter((generation) => generation !== null);
}

const claimKey = (tenant: TenantId, generation: number): string =>
  tenantFolder(tenant) + claimPrefix + formatGeneration(generation);

function decodeClaim(bytes: Uint8Array, file: string): TenantClaim {
  const { generation, node_id: node } = decodeVersioned(bytes, file, claimVersion);
  if (!Number.isSafeInteger(generation)) {
    throw new PageliteError('corrupt', `${file} is damaged: no generation`, { file });
  }
  return { generation, nodeId: node === null ? null : nodeId(node) };
}
