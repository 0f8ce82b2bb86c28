/** Routes about tenants. */
import { z } from 'zod';
import { newTenantId, type TenantId, tenantId, timelineId } from '../../../engine/model/ids.ts';
import type { Random } from '../../../engine/services.ts';
import { formatTenantConfig, parseTenantConfig } from '../../../engine/timeline/tenant-config.ts';
import { json, type Route } from '../../process/http-routes.ts';
import { idText, route } from '../../process/path-parameters.ts';
import type { PageserverApi } from './pageserver-api.ts';
import { branchNames, tenantConfigAnswer, tenantDetails, tenantInfo } from './schemas.ts';

const nothing = z.object({});

export function tenantRoutes(pageserver: PageserverApi, random: Random): Route[] {
  return [
    route({
      method: 'GET',
      path: '/v1/tenant',
      operation: 'listTenants',
      summary: 'All tenants',
      answer: json(z.array(tenantInfo), 'In the order of their ids'),
      handle: async () => (await pageserver.listTenants()).map(infoOf),
    }),
    route({
      method: 'POST',
      path: '/v1/tenant',
      operation: 'createTenant',
      summary: 'Makes a tenant',
      description:
        'With the id of one that is there: that one, so that a caller who did not hear the answer may ask again.',
      body: z.strictObject({ new_tenant_id: idText.optional().describe('Default: a new one') }),
      answer: json(idText, 'Its id', 201),
      handle: async ({ body }) => {
        const tenant = body.new_tenant_id ? tenantId(body.new_tenant_id) : newTenantId(random);
        if (!(await pageserver.listTenants()).includes(tenant)) await pageserver.createTenant(tenant);
        return tenant;
      },
    }),
    route({
      method: 'GET',
      path: '/v1/tenant/{tenant_id}',
      operation: 'getTenant',
      summary: 'A tenant with the ids of its timelines',
      answer: json(tenantDetails, 'The tenant'),
      handle: async ({ params: { tenant_id: tenant } }) => {
        const timelines = await pageserver.listTimelines(tenant);
        const sizes = timelines.map((timelineId) => pageserver.physicalSize({ tenantId: tenant, timelineId }));
        const current_physical_size = sizes.reduce((sum, size) => sum + size, 0);
        return { ...infoOf(tenant), current_physical_size, timelines: [...timelines] };
      },
    }),
    route({
      method: 'DELETE',
      path: '/v1/tenant/{tenant_id}',
      operation: 'deleteTenant',
      summary: 'Deletes a tenant with all of its timelines',
      answer: json(nothing, 'It is deleted'),
      handle: async ({ params: { tenant_id: tenant } }) => {
        await pageserver.deleteTenant(tenant);
        return {};
      },
    }),
    route({
      method: 'PUT',
      path: '/v1/tenant/{tenant_id}/location_config',
      operation: 'setLocation',
      summary: 'Attaches a tenant that is in the store to this pageserver, or detaches it',
      description:
        'Attached: in a new generation, which this pageserver claims in the store; whoever had the tenant is fenced off. Detached: everything is in the store afterwards.',
      body: z.strictObject({ mode: z.enum(['AttachedSingle', 'Detached']) }),
      answer: json(nothing, 'It is so'),
      handle: async ({ params: { tenant_id: tenant }, body }) => {
        await (body.mode === 'Detached' ? pageserver.detachTenant(tenant) : pageserver.attachTenant(tenant));
        return {};
      },
    }),
    route({
      method: 'GET',
      path: '/v1/tenant/{tenant_id}/config',
      operation: 'getTenantConfig',
      summary: 'Settings of a tenant: what is set, and what holds',
      answer: json(tenantConfigAnswer, 'The settings'),
      handle: ({ params: { tenant_id: tenant } }) => configOf(pageserver, tenant),
    }),
    route({
      method: 'PUT',
      path: '/v1/tenant/config',
      operation: 'setTenantConfig',
      summary: 'Replaces the settings of a tenant',
      body: z.looseObject({ tenant_id: idText }),
      tenantOf: ({ tenant_id }) => tenantId(tenant_id),
      answer: json(nothing, 'They hold'),
      handle: async ({ body: { tenant_id: tenant, ...settings } }) => {
        await pageserver.setTenantConfig(tenantId(tenant), parseTenantConfig(settings));
        return {};
      },
    }),
    route({
      method: 'PATCH',
      path: '/v1/tenant/config',
      operation: 'patchTenantConfig',
      summary: 'Changes some settings of a tenant; null: as if it were not set',
      body: z.looseObject({ tenant_id: idText }),
      tenantOf: ({ tenant_id }) => tenantId(tenant_id),
      answer: json(nothing, 'They hold'),
      handle: async ({ body: { tenant_id: text, ...settings } }) => {
        const tenant = tenantId(text);
        const unset = Object.keys(settings).filter((name) => settings[name] === null);
        const changed = Object.fromEntries(Object.entries(settings).filter(([, value]) => value !== null));
        const { overrides } = pageserver.tenantConfig(tenant);
        const kept = Object.entries({ ...overrides, ...parseTenantConfig(changed) });
        await pageserver.setTenantConfig(tenant, Object.fromEntries(kept.filter(([name]) => !unset.includes(name))));
        return {};
      },
    }),
    route({
      method: 'GET',
      path: '/v1/tenant/{tenant_id}/branch_names',
      operation: 'getBranchNames',
      summary: "Names of a tenant's branches, as they were stored last",
      answer: json(branchNames, 'The names'),
      handle: async ({ params: { tenant_id: tenant } }) => {
        const { clusterId, names } = await pageserver.branchNames(tenant);
        return { cluster_id: clusterId, names: Object.fromEntries(names) };
      },
    }),
    route({
      method: 'PUT',
      path: '/v1/tenant/{tenant_id}/branch_names',
      operation: 'setBranchNames',
      summary: "Stores the names of a tenant's branches, for whoever attaches it next",
      description: 'All of them at once. The pageserver itself knows timelines by their ids.',
      body: branchNames,
      answer: json(nothing, 'They are stored'),
      handle: async ({ params: { tenant_id: tenant }, body: { cluster_id: clusterId, names } }) => {
        const entries = Object.entries(names).map(([id, name]) => [timelineId(id), name] as const);
        await pageserver.setBranchNames(tenant, { clusterId, names: new Map(entries) });
        return {};
      },
    }),
  ];
}

function configOf(pageserver: PageserverApi, tenant: TenantId) {
  const { overrides, effective } = pageserver.tenantConfig(tenant);
  return {
    tenant_specific_overrides: formatTenantConfig(overrides),
    effective_config: formatTenantConfig(effective),
  };
}

function infoOf(tenant: TenantId) {
  return { id: tenant, state: { slug: 'Active' as const }, attachment_status: { slug: 'attached' as const } };
}
