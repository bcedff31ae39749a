"""/organizations/new: a person makes an organization, and with it an account."""

from django import forms
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse

from billing import customers
from kit.errors import Refused
from tenants import schemas
from tenants.views.access import PersonPage


class OrganizationForm(forms.Form):
    """What it is called."""

    name = forms.CharField(max_length=120, help_text="What people read; it can be changed.")
    slug = forms.CharField(
        max_length=40,
        label="Short name",
        help_text="In addresses: lower-case letters, digits and single hyphens. It stays.",
        widget=forms.TextInput(attrs={"autocapitalize": "none", "spellcheck": "false"}),
    )


class NewOrganization(PersonPage):
    """A form, and the organization that comes of it."""

    def get(self, request: HttpRequest) -> HttpResponse:
        """The form."""
        return self._form(OrganizationForm())

    def post(self, request: HttpRequest) -> HttpResponse:
        """The row at once; a task makes the schema while the next page tells how far it is."""
        form = OrganizationForm(request.POST)
        if not form.is_valid():
            return self._form(form)
        try:
            organization = customers.found(
                slug=form.cleaned_data["slug"],
                name=form.cleaned_data["name"],
                owner=self.person,
                terms=customers.offered(),
                now=self.now,
                by=self.actor,
            )
        except Refused as refusal:
            form.add_error(refusal.param if refusal.param in form.fields else None, refusal.message)
            return self._form(form)
        schemas.ask(organization.pk)
        return HttpResponseRedirect(reverse("making", args=[organization.slug]))

    def _form(self, form: OrganizationForm) -> HttpResponse:
        return render(self.request, "portal/new_organization.html", {"form": form})
