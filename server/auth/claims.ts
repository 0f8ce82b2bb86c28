/**
 * What a token says, and what that opens: Neon's scopes (libs/utils/src/auth.rs) and the rules of its pageserver and safekeeper.
 *
 *   {"scope": "tenant", "tenant_id": "9ef8...", "exp": 1790000000}
 *
 * | scope | on a pageserver | on a safekeeper |
 * |---|---|---|
 * | `tenant` | its tenant's timelines and HTTP routes | its tenant's WAL and HTTP routes |
 * | `pageserverapi` | everything | nothing |
 * | `safekeeperdata` | nothing | everything |
 * | the others | nothing | nothing: they are for services that Pagelite does not have |
 */
import { z } from 'zod';
import { type TenantId, tenantId } from '../../engine/model/ids.ts';
import { forbidden, unauthorized } from './refusal.ts';

export const scopes = [
  'tenant',
  'pageserverapi',
  'safekeeperdata',
  'tenantendpoint',
  'generations_api',
  'admin',
  'infra',
  'scrubber',
  'controller_peer',
] as const;
export type Scope = (typeof scopes)[number];

export interface Claims {
  readonly scope: Scope;
  /** Of scope `tenant`: always there. */
  readonly tenantId: TenantId | null;
}

/** Claims that are not ours (iss, iat, ...) are left alone, as in Neon. */
const claimsSchema = z.object({
  scope: z.enum(scopes),
  tenant_id: z
    .string()
    .regex(/^[0-9a-f]{32}$/i, 'expected 32 hex digits')
    .nullish(),
});

/** Throws a refusal that names what does not fit. */
export function parseClaims(payload: unknown): Claims {
  const parsed = claimsSchema.safeParse(payload);
  if (!parsed.success) {
    const problems = parsed.error.issues.map(({ path, message }) => `${path.join('.')}: ${message}`).join('; ');
    throw unauthorized(`the claims of the token do not fit: ${problems}`);
  }
  const { scope, tenant_id: tenant } = parsed.data;
  if (scope === 'tenant' && !tenant) throw unauthorized('a token of scope tenant has to name its tenant in tenant_id');
  return { scope, tenantId: tenant ? tenantId(tenant.toLowerCase()) : null };
}

/** Throws a refusal unless the claims open what concerns `tenant`, or, for null, the server as a whole. */
export type PermissionRule = (claims: Claims, tenant: TenantId | null) => void;

export const pageserverPermission: PermissionRule = (claims, tenant) =>
  checkPermission('pageserver', 'pageserverapi', claims, tenant);

export const safekeeperPermission: PermissionRule = (claims, tenant) =>
  checkPermission('safekeeper', 'safekeeperdata', claims, tenant);

function checkPermission(
  server: string,
  whole: Scope,
  { scope, tenantId: own }: Claims,
  tenant: TenantId | null,
): void {
  if (scope === whole) return;
  if (scope !== 'tenant') {
    throw forbidden(`a token of scope ${scope} opens nothing on a ${server}: it takes ${whole} or tenant`);
  }
  if (tenant === null) {
    throw forbidden(`a token of scope tenant does not open what concerns the whole ${server}: that takes ${whole}`);
  }
  if (own !== tenant) throw forbidden(`the token is for another tenant than ${tenant}`);
}
